#pragma once
// Parsing JSON text with the house's errors: file, line, column; no doubled keys, no bottomless nesting. Time and
// memory grow with the text alone: nlohmann's own parser with a callback, and its ordered objects, take a time that
// grows with the square of an object's keys.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::io {

/// "LINE:COLUMN" of a byte offset, both counted from 1; columns count characters.
std::string line_and_column(std::string_view text, std::size_t offset);

/// Error if brackets nest deeper than 200 (such text is hostile, and destroying its tree could exhaust the stack) or
/// a zero byte ends the text early.
void check_json_structure(std::string_view text, const std::string& label);

/// The start of a text from a file, fit for an error.
std::string excerpt(std::string_view text);

/// nlohmann's message without its prefix, which repeats the position, and without the end of a long text in it.
std::string plain_json_message(const std::string& message);

/// Takes the parser's events and builds values. With `on_member` the members of the outermost object are handed over
/// one at a time, as soon as each is complete, and the object itself stays empty.
template <typename Json>
class JsonBuilder {
 public:
  using OnMember = std::function<void(const std::string& key, Json value)>;

  JsonBuilder(std::string_view text, const std::string& label, OnMember on_member)
      : text_(text), label_(label), on_member_(std::move(on_member)) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(typename Json::binary_t&) { return false; }  // no part of JSON text

  bool start_object(std::size_t) {
    open_.push_back({Json::object(), {}, {}});
    return true;
  }
  bool key(std::string& key) {
    open_.back().keys.push_back(key);
    open_.back().key = std::move(key);
    return true;
  }
  bool end_object() {
    std::vector<std::string>& keys = open_.back().keys;
    std::sort(keys.begin(), keys.end());
    const auto doubled = std::adjacent_find(keys.begin(), keys.end());
    MOELORA_CHECK(doubled == keys.end(), label_, ": key \"", excerpt(*doubled), "\" appears twice in one object");
    return close();
  }
  bool start_array(std::size_t) {
    open_.push_back({Json::array(), {}, {}});
    return true;
  }
  bool end_array() { return close(); }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    if (const auto* wrong = dynamic_cast<const nlohmann::detail::parse_error*>(&error)) {
      throw Error(detail::concat(label_, ":", line_and_column(text_, wrong->byte > 0 ? wrong->byte - 1 : 0), ": ",
                                 plain_json_message(wrong->what())));
    }
    throw Error(detail::concat(label_, ": ", plain_json_message(error.what())));  // a number that fits no type
  }

 private:
  struct Open {
    Json value;
    std::string key;                ///< of the member that comes next
    std::vector<std::string> keys;  ///< of all members so far
  };

  bool close() {
    Json done = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(done));
  }

  template <typename Value>
  bool add(Value&& value) {
    if (open_.empty()) {
      root_ = Json(std::forward<Value>(value));
      return true;
    }
    Open& into = open_.back();
    if (into.value.is_array()) {
      into.value.template get_ref<typename Json::array_t&>().emplace_back(std::forward<Value>(value));
    } else if (open_.size() == 1 && on_member_) {
      on_member_(into.key, Json(std::forward<Value>(value)));
    } else {
      add_member(into.value.template get_ref<typename Json::object_t&>(), std::move(into.key),
                 Json(std::forward<Value>(value)));
    }
    return true;
  }
  // Unchecked: doubled keys are found when the object ends.
  static void add_member(typename nlohmann::ordered_json::object_t& object, std::string key, Json value) {
    object.emplace_back(std::move(key), std::move(value));
  }
  static void add_member(typename nlohmann::json::object_t& object, std::string key, Json value) {
    object.emplace(std::move(key), std::move(value));
  }

  std::string_view text_;
  const std::string& label_;
  OnMember on_member_;
  Json root_;
  std::vector<Open> open_;
};

/// `label` names the text in errors, as in "LABEL:3:14: …". For `on_member` see JsonBuilder.
template <typename Json>
Json parse_json_text(std::string_view text, const std::string& label,
                     typename JsonBuilder<Json>::OnMember on_member = {}) {
  check_json_structure(text, label);
  JsonBuilder<Json> builder(text, label, std::move(on_member));
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

}  // namespace moelora::io
