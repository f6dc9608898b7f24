#include "data/messages.h"

#include <algorithm>
#include <optional>

#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

using nlohmann::json;

enum class Side { system, user, assistant };

bool lists(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::optional<Side> side_of(const MessageFields& messages, const std::string& role) {
  if (lists(messages.user, role)) {
    return Side::user;
  }
  if (lists(messages.assistant, role)) {
    return Side::assistant;
  }
  return lists(messages.system, role) ? std::optional(Side::system) : std::nullopt;
}

/// Why a message can't be taken as it is, or nothing. Sets what it says.
std::string take_message(const MessageFields& messages, const json& message, std::optional<Side>& side,
                         std::string& text) {
  const auto is_text = [&](const std::string& key) {
    return message.is_object() && message.contains(key) && message[key].is_string();
  };
  for (const char* key : {"tool_calls", "function_call", "weight"}) {
    if (message.is_object() && message.contains(key) && !message[key].is_null() && message[key] != json::array()) {
      return detail::concat("\"", key, "\" is not supported: it would change what is learned; leave it out");
    }
  }
  if (!is_text(messages.role) || !is_text(messages.content)) {
    return detail::concat("expected an object with the strings \"", messages.role, "\" and \"", messages.content,
                          "\", found ", io::shortened(message.dump(), 80));
  }
  const std::string role = message[messages.role].get<std::string>();
  side = side_of(messages, role);
  if (!side) {
    return detail::concat("unknown role \"", io::shortened(role, 40), "\"; expected ",
                          io::joined(messages.user, " or "), " (asks), ", io::joined(messages.assistant, " or "),
                          " (answers) or ", io::joined(messages.system, " or "));
  }
  text = message[messages.content].get<std::string>();
  return text.empty() ? detail::concat("it is empty (role \"", io::shortened(role, 40), "\")") : std::string();
}

}  // namespace

void read_conversation(RecordFields& fields, const MessageFields& messages, bool need_target, Record& record) {
  const std::optional<json> list = fields.find(messages.list);
  if (!list) {
    fields.missing(messages.list);
    return;
  }
  const auto wrong = [&](const std::string& text) { fields.problem(messages.list, text); };
  if (const std::optional<json> tools = fields.find("tools"); tools && *tools != json::array() && *tools != "") {
    fields.problem("tools", "\"tools\" are not supported: they would change the prompt; leave them out");
  }
  if (!list->is_array() || list->empty()) {
    wrong(detail::concat("expected a list of messages as \"", messages.list, "\", found ",
                         list->is_array() ? "an empty one" : list->type_name()));
    return;
  }
  std::vector<std::string> turns;  // user, assistant, user, …
  for (std::size_t i = 0; i < list->size(); ++i) {
    std::optional<Side> side;
    std::string text;
    std::string problem = take_message(messages, (*list)[i], side, text);
    if (problem.empty() && side == Side::system) {
      problem = i > 0                   ? "a system text is understood as the first message alone"
                : record.system.empty() ? ""
                                        : "a second system text, beside the record's own; leave one of the two out";
      record.system = text;
    } else if (problem.empty()) {
      const Side expected = turns.size() % 2 == 0 ? Side::user : Side::assistant;
      if (side != expected) {
        problem = detail::concat("expected a turn of ",
                                 io::joined(expected == Side::user ? messages.user : messages.assistant, " or "),
                                 turns.empty() ? " first" : ", as the one before is of the other side", ", found \"",
                                 (*list)[i][messages.role].get<std::string>(), "\"",
                                 turns.empty() ? "" : "; make one message of two turns in a row");
      }
      turns.push_back(std::move(text));
    }
    if (!problem.empty()) {
      wrong(detail::concat("message ", i + 1, " of ", list->size(), ": ", problem));
      return;
    }
  }
  if (turns.empty()) {
    wrong(detail::concat("expected a user's turn in \"", messages.list, "\", found a system text alone"));
    return;
  }
  const bool answered = turns.size() % 2 == 0;
  if (need_target && !answered) {
    wrong(
        detail::concat("expected an answer as the last message, found a turn of ", io::joined(messages.user, " or ")));
    return;
  }
  const std::size_t asked = answered ? turns.size() - 2 : turns.size() - 1;
  record.input = turns[asked];
  record.target = answered ? turns.back() : "";
  for (std::size_t i = 0; i < asked; i += 2) {
    record.history.emplace_back(turns[i], turns[i + 1]);
  }
}

}  // namespace moelora::data
