#pragma once
// Parsing JSON text with the house's errors: file, line, column; no doubled keys, no bottomless nesting.

#include <cstddef>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::io {

/// "LINE:COLUMN" of a byte offset, both counted from 1; columns count characters.
std::string line_and_column(std::string_view text, std::size_t offset);

/// Error if brackets nest deeper than 200 (such text is hostile, and destroying its tree could exhaust the stack) or
/// a zero byte ends the text early.
void check_json_structure(std::string_view text, const std::string& label);

/// nlohmann's message without its prefix, which repeats the position.
std::string plain_json_message(const std::string& message);

/// `label` names the text in errors, as in "LABEL:3:14: …".
template <typename Json>
Json parse_json_text(std::string_view text, const std::string& label) {
  check_json_structure(text, label);
  std::vector<std::set<std::string>> keys;
  const auto refuse_doubled_keys = [&](int, typename Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.template get_ref<const std::string&>();
      MOELORA_CHECK(keys.back().insert(key).second, label, ": key \"", key, "\" appears twice in one object");
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), refuse_doubled_keys);
  } catch (const typename Json::parse_error& error) {
    throw Error(detail::concat(label, ":", line_and_column(text, error.byte > 0 ? error.byte - 1 : 0), ": ",
                               plain_json_message(error.what())));
  } catch (const typename Json::exception& error) {  // e.g. a number that fits no type
    throw Error(detail::concat(label, ": ", plain_json_message(error.what())));
  }
}

}  // namespace moelora::io
