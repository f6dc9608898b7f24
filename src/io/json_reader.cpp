#include "moelora/io/json_reader.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "io/edit_distance.h"
#include "moelora/io/error.h"
#include "moelora/io/readable.h"

namespace moelora::io {

namespace {

constexpr std::size_t kLongestKey = 200;  // that errors show and names are compared with

}  // namespace

struct JsonReader::State {
  nlohmann::ordered_json json;
  std::string where;
  std::vector<std::string> known;
  std::vector<std::string> problems;
  std::vector<std::shared_ptr<State>> children;

  std::string path(const std::string& key) const { return where.empty() ? key : where + "." + key; }
  void wrong_type(const std::string& key, const char* expected, const nlohmann::ordered_json& found) {
    std::string text = found.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    if (text.size() > 60) {
      text = std::string(found.type_name());
    }
    problems.push_back(path(key) + ": expected " + expected + ", found " + text);
  }
  void collect(std::vector<std::string>& all) const {
    all.insert(all.end(), problems.begin(), problems.end());
    constexpr std::size_t kSuggestions = 100;  // beyond those nobody reads them
    for (auto entry = json.begin(); entry != json.end(); ++entry) {
      if (std::find(known.begin(), known.end(), entry.key()) == known.end()) {
        const std::string key = entry.key().size() <= kLongestKey ? entry.key() : entry.key().substr(0, kLongestKey);
        all.push_back(path(key) + ": unknown key" + (all.size() < kSuggestions ? suggestion(key, known) : ""));
      }
    }
    for (const auto& child : children) {
      child->collect(all);
    }
  }
};

namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

/// A whole number written as a floating-point one (8e3), within the range of int64.
bool is_whole_float(const nlohmann::ordered_json& value) {
  if (!value.is_number_float()) {
    return false;
  }
  const double number = value.get<double>();
  return std::floor(number) == number && number >= -kTwoTo63 && number < kTwoTo63;
}

std::string ascii_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') {
      c = static_cast<char>(c - 'A' + 'a');
    }
  }
  return lower;
}

bool is_list_of_numbers(const nlohmann::ordered_json& json) {
  return json.is_array() && std::all_of(json.begin(), json.end(), [](const auto& entry) { return entry.is_number(); });
}

}  // namespace

JsonReader::JsonReader(const nlohmann::ordered_json& json, std::string where) : state_(std::make_shared<State>()) {
  state_->where = std::move(where);
  state_->json = nlohmann::ordered_json::object();
  if (json.is_object()) {
    state_->json = json;
  } else if (!json.is_null()) {
    state_->problems.push_back((state_->where.empty() ? std::string("the file") : state_->where) +
                               ": expected an object, found " + json.type_name());
  }
}

JsonReader::JsonReader(std::shared_ptr<State> state) : state_(std::move(state)) {}

const nlohmann::ordered_json* JsonReader::find(const std::string& key) {
  state_->known.push_back(key);
  const auto found = state_->json.find(key);
  return found == state_->json.end() ? nullptr : &*found;
}

bool JsonReader::read(const std::string& key, bool& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  if (!found->is_boolean()) {
    state_->wrong_type(key, "true or false", *found);
    return false;
  }
  value = found->get<bool>();
  return true;
}

bool JsonReader::read(const std::string& key, double& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  if (!found->is_number()) {
    state_->wrong_type(key, "a number", *found);
    return false;
  }
  value = found->get<double>();
  return true;
}

bool JsonReader::read(const std::string& key, std::int64_t& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  const bool too_large =
      found->is_number_unsigned() &&
      found->get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (too_large || !(found->is_number_integer() || is_whole_float(*found))) {
    state_->wrong_type(key, "an integer", *found);
    return false;
  }
  value = found->get<std::int64_t>();
  return true;
}

bool JsonReader::read(const std::string& key, std::uint64_t& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  const bool whole = found->is_number_unsigned() || (found->is_number_integer() && found->get<std::int64_t>() >= 0) ||
                     (is_whole_float(*found) && found->get<double>() >= 0.0);
  if (!whole) {
    state_->wrong_type(key, "an integer of at least 0", *found);
    return false;
  }
  value = found->get<std::uint64_t>();
  return true;
}

bool JsonReader::read(const std::string& key, std::string& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  if (!found->is_string()) {
    state_->wrong_type(key, "a string", *found);
    return false;
  }
  value = found->get<std::string>();
  return true;
}

bool JsonReader::read_or_null(const std::string& key, std::string& value) {
  if (!has(key)) {
    find(key);
    return false;
  }
  return read(key, value);
}

bool JsonReader::read(const std::string& key, std::vector<std::string>& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  const bool strings = found->is_array() &&
                       std::all_of(found->begin(), found->end(), [](const auto& entry) { return entry.is_string(); });
  if (!strings) {
    state_->wrong_type(key, "a list of strings", *found);
    return false;
  }
  value = found->get<std::vector<std::string>>();
  return true;
}

bool JsonReader::read(const std::string& key, std::vector<double>& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  if (!is_list_of_numbers(*found)) {
    state_->wrong_type(key, "a list of numbers", *found);
    return false;
  }
  value = found->get<std::vector<double>>();
  return true;
}

bool JsonReader::read(const std::string& key, std::vector<std::int64_t>& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  const bool integers = found->is_array() && std::all_of(found->begin(), found->end(), [](const auto& entry) {
                          return entry.is_number_integer() || is_whole_float(entry);
                        });
  if (!integers) {
    state_->wrong_type(key, "a list of integers", *found);
    return false;
  }
  value = found->get<std::vector<std::int64_t>>();
  return true;
}

bool JsonReader::read(const std::string& key, std::vector<std::vector<double>>& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  if (!found->is_array() || !std::all_of(found->begin(), found->end(), is_list_of_numbers)) {
    state_->wrong_type(key, "a list of lists of numbers", *found);
    return false;
  }
  value = found->get<std::vector<std::vector<double>>>();
  return true;
}

bool JsonReader::read(const std::string& key, nlohmann::ordered_json& value) {
  const nlohmann::ordered_json* found = find(key);
  if (found == nullptr) {
    return false;
  }
  value = *found;
  return true;
}

bool JsonReader::read_choice(const std::string& key, const std::vector<std::string>& names, std::size_t& index) {
  std::string name;
  if (!read(key, name)) {
    return false;
  }
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    problem(key, "expected one of " + joined(names) + ", found \"" + name + "\"");
    return false;
  }
  index = static_cast<std::size_t>(found - names.begin());
  return true;
}

bool JsonReader::has(const std::string& key) const {
  const auto found = state_->json.find(key);
  return found != state_->json.end() && !found->is_null();
}

JsonReader JsonReader::child(const std::string& key) {
  const nlohmann::ordered_json* found = find(key);
  JsonReader made(found == nullptr ? nlohmann::ordered_json() : *found, state_->path(key));
  state_->children.push_back(made.state_);
  return made;
}

void JsonReader::problem(const std::string& text) {
  state_->problems.push_back(state_->where.empty() ? text : state_->where + ": " + text);
}

void JsonReader::problem(const std::string& key, const std::string& text) {
  state_->problems.push_back(state_->path(key) + ": " + text);
}

void JsonReader::finish() const {
  std::vector<std::string> problems;
  state_->collect(problems);
  if (problems.empty()) {
    return;
  }
  constexpr std::size_t kShown = 100;
  std::string text;
  for (std::size_t i = 0; i < problems.size() && i < kShown; ++i) {
    text += (text.empty() ? "" : "\n") + problems[i];
  }
  if (problems.size() > kShown) {
    text += detail::concat("\n… and ", problems.size() - kShown, " more");
  }
  throw Error(text);
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& known) {
  if (name.size() > kLongestKey) {
    return {};  // nobody meant it, and the distance takes a time and memory of both lengths' product
  }
  const std::string wanted = ascii_lower(name);
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    if (candidate.size() > kLongestKey) {
      continue;
    }
    const std::size_t distance = edit_distance(wanted, ascii_lower(candidate));
    if (distance < best_distance && distance < std::max(name.size(), candidate.size())) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& known) {
  const std::string nearest = nearest_name(name, known);
  if (!nearest.empty()) {
    return ", did you mean \"" + nearest + "\"?";
  }
  return known.empty() ? "" : "; known: " + joined(known);
}

}  // namespace moelora::io
