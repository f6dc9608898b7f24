#include "data/record_fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "moelora/io/error.h"
#include "moelora/io/json_text.h"
#include "moelora/io/readable.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

using nlohmann::json;

/// What lies at a path below a value: whole keys first, then their parts up to a dot, and places in lists.
const json* below(const json& value, std::string_view path) {
  if (path.empty()) {
    return &value;
  }
  if (value.is_array()) {
    const std::size_t end = std::min(path.find('.'), path.size());
    std::size_t place = 0;
    const auto [rest, failure] = std::from_chars(path.data(), path.data() + end, place);
    if (failure != std::errc() || rest != path.data() + end || place >= value.size()) {
      return nullptr;
    }
    return below(value[place], path.substr(std::min(end + 1, path.size())));
  }
  if (!value.is_object()) {
    return nullptr;
  }
  for (std::size_t end = path.size(); end != std::string_view::npos && end > 0; end = path.rfind('.', end - 1)) {
    if (const auto found = value.find(std::string(path.substr(0, end))); found != value.end()) {
      return below(*found, path.substr(std::min(end + 1, path.size())));
    }
  }
  return nullptr;
}

/// A number, or true or false, as JSON writes it; nothing for another value, nor for a number of more digits than are
/// kept: two such would become one task or answer.
std::optional<std::string> scalar_text(const json& value, RecordFields::Take take) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it not every whole number is a double
  if (value.is_number_float() && std::abs(value.get<double>()) >= kExact) {
    return std::nullopt;
  }
  const bool taken = (value.is_number() && take != RecordFields::Take::strings) ||
                     (value.is_boolean() && take == RecordFields::Take::scalars);
  return taken ? std::optional<std::string>(value.dump()) : std::nullopt;
}

}  // namespace

const char* type_of_value(char first) {
  switch (first) {
    case '{':
      return "object";
    case '[':
      return "array";
    case '"':
      return "string";
    case 't':
    case 'f':
      return "boolean";
    case 'n':
      return "null";
    default:
      return "number";
  }
}

std::string RecordFields::string(const std::string& path, Need need, Take take) {
  const std::optional<json> found = find(path);
  if (!found) {
    if (need != Need::none) {
      missing(path);
    }
    return {};
  }
  std::optional<std::string> text = scalar_text(*found, take);
  if (!text) {
    problem(path, detail::concat("expected a string as \"", path, "\", found ",
                                 found->is_number_float() && take != Take::strings
                                     ? "a number of more digits than are kept (write it in quotes)"
                                     : found->type_name()));
    return {};
  }
  if (need == Need::filled && text->empty()) {
    problem(path, detail::concat("\"", path, "\" is empty"));
  }
  return *std::move(text);
}

std::string RecordFields::filled(const TextTemplate& text, const char* what, bool required, Take take) {
  const std::size_t wrong_before = missing_.size() + problems_.size();
  std::string filled = text.fill([&](const TextTemplate::Field& field) {
    return string(field.name, required && !field.optional ? Need::present : Need::none, take);
  });
  if (required && filled.empty() && missing_.size() + problems_.size() == wrong_before) {
    const std::vector<TextTemplate::Field> fields = text.fields();
    std::string names;
    for (const TextTemplate::Field& field : fields) {
      names += (names.empty() ? "\"" : ", \"") + field.name + "\"";
    }
    const auto there =
        std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return member_of(field.name) != nullptr; });
    problem(there == fields.end() ? std::string() : there->name,
            fields.size() == 1 ? names + " is empty" : detail::concat("the ", what, " is empty: ", names, " are"));
  }
  return filled;
}

std::vector<std::string> RecordFields::strings(const std::string& path, Take take) {
  const std::optional<json> found = find(path);
  if (!found) {
    return {};
  }
  std::vector<std::string> texts;
  for (const json& one : found->is_array() ? *found : json::array()) {
    if (std::optional<std::string> text = scalar_text(one, take)) {
      texts.push_back(*std::move(text));
    }
  }
  if (!found->is_array() || texts.size() != found->size()) {
    problem(path, detail::concat("expected a list of strings or null as \"", path, "\", found ", found->type_name()));
    return {};
  }
  return texts;
}

std::vector<std::pair<std::string, std::string>> RecordFields::rounds(const std::string& path) {
  const std::optional<json> found = find(path);
  const auto is_round = [](const json& one) {
    return one.is_array() && one.size() == 2 && one[0].is_string() && one[1].is_string();
  };
  std::vector<std::pair<std::string, std::string>> rounds;
  if (!found) {
    return rounds;
  }
  if (!found->is_array() || !std::all_of(found->begin(), found->end(), is_round)) {
    problem(path, detail::concat("expected a list of [question, answer] pairs as \"", path, "\", found ",
                                 io::shortened(found->dump(), 80)));
    return rounds;
  }
  for (const json& round : *found) {
    rounds.emplace_back(round[0].get<std::string>(), round[1].get<std::string>());
  }
  return rounds;
}

std::optional<json> RecordFields::find(const std::string& path) const {
  const JsonExtent::Member* member = member_of(path);
  if (member == nullptr || text_[member->value] == 'n') {
    return std::nullopt;
  }
  try {
    json value = json::parse(text_.substr(member->value, member->value_end - member->value));
    const std::size_t length = member->name().size();
    if (length >= path.size()) {
      return value;
    }
    const json* inner = below(value, std::string_view(path).substr(length + 1));
    return inner == nullptr || inner->is_null() ? std::nullopt : std::optional<json>(*inner);
  } catch (const json::exception& error) {  // a number that no type holds
    throw JsonFault{member->value, "broken JSON: " + io::plain_json_message(error.what())};
  }
}

void RecordFields::problem(const std::string& path, std::string text) {
  const JsonExtent::Member* member = member_of(path);
  problems_.push_back({member == nullptr ? begin_ : member->value, std::move(text)});
}

void RecordFields::check(const std::string& sample_id, const FieldMap& map) {
  std::string text;
  if (!missing_.empty()) {
    std::vector<std::string> names;  // each once
    for (const std::string& name : missing_) {
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
      }
    }
    text = names.size() == 1 ? "the field " : "the fields ";
    for (std::size_t i = 0; i < names.size(); ++i) {
      text += (i == 0 ? "\"" : i + 1 == names.size() ? " and \"" : ", \"") + names[i] + "\"";
    }
    text += (names.size() == 1 ? " is missing; found " : " are missing; found ") + found_fields();
  }
  for (const JsonFault& one : problems_) {
    text += (text.empty() ? "" : "; ") + one.what;
  }
  if (text.empty()) {
    check_not_another_form(map);
    return;
  }
  if (!sample_id.empty()) {
    text += " (sample_id " + io::shortened(sample_id, 60) + ")";
  }
  if (!missing_.empty()) {
    std::vector<std::string> keys;
    for (const JsonExtent::Member& member : members_) {
      keys.push_back(member.name());
    }
    text += suggested_fields(keys, map);
  }
  throw JsonFault{missing_.empty() ? problems_.front().at : begin_, text};
}

/// Where neither an answer nor a task is needed, "input" alone would make half of such a record a question.
void RecordFields::check_not_another_form(const FieldMap& map) const {
  const auto has = [&](const char* key) { return member_named(key) != nullptr; };
  if (map.is_default() && has("instruction") && has("output") && !has("target") && !has("task_dataset")) {
    throw JsonFault{begin_, "found " + found_fields() + suggested_fields({"instruction", "output"}, map)};
  }
}

const JsonExtent::Member* RecordFields::member_named(std::string_view key) const {
  const auto member = std::find_if(members_.begin(), members_.end(), [&](const auto& one) {
    return one.key == key || (one.key.find('\\') != std::string_view::npos && one.name() == key);
  });
  return member == members_.end() ? nullptr : &*member;
}

/// The member that a path leads through: of the whole name, or of its longest part in front of a dot.
const JsonExtent::Member* RecordFields::member_of(std::string_view path) const {
  for (std::size_t end = path.size(); end != std::string_view::npos && end > 0; end = path.rfind('.', end - 1)) {
    if (const JsonExtent::Member* member = member_named(path.substr(0, end))) {
      return member;
    }
  }
  return nullptr;
}

std::string RecordFields::found_fields() const {
  constexpr std::size_t kMost = 12;
  std::string text;
  for (std::size_t i = 0; i < members_.size() && i < kMost; ++i) {
    text += (i == 0 ? "\"" : ", \"") + io::shortened(members_[i].key, 40) + "\"";
    const std::string type = type_of_value(text_[members_[i].value]);
    text += type == "string" ? "" : " (" + type + ")";
  }
  if (members_.size() > kMost) {
    text += detail::concat(" and ", members_.size() - kMost, " more");
  }
  return text.empty() ? "no fields" : text;
}

}  // namespace moelora::data
