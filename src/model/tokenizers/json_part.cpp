#include "model/tokenizers/json_part.h"

#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {

JsonPart::JsonPart(const Json& json, std::string where) : json_(json), where_(std::move(where)), asked_{"type"} {
  MOELORA_CHECK(json.is_object(), where_, ": expected an object, found ", json.type_name());
}

std::string JsonPart::type() const {
  const auto found = json_.find("type");
  if (found == json_.end() || !found->is_string()) {
    wrong("type", "a string");
  }
  return found->get<std::string>();
}

const Json* JsonPart::find(const std::string& key) {
  asked_.insert(key);
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonPart::flag(const std::string& key, bool otherwise) {
  const Json* found = find(key);
  if (found == nullptr) {
    return otherwise;
  }
  if (!found->is_boolean()) {
    wrong(key, "true or false");
  }
  return found->get<bool>();
}

std::string JsonPart::text(const std::string& key) {
  const Json* found = find(key);
  if (found == nullptr || !found->is_string()) {
    wrong(key, "a string");
  }
  return found->get<std::string>();
}

std::string JsonPart::text(const std::string& key, const std::string& otherwise) {
  return find(key) == nullptr ? otherwise : text(key);
}

std::int64_t JsonPart::number(const std::string& key, std::int64_t otherwise) {
  const Json* found = find(key);
  if (found == nullptr) {
    return otherwise;
  }
  if (!found->is_number_integer() || found->get<std::int64_t>() < 0 || found->get<std::int64_t>() > (1LL << 31)) {
    wrong(key, "a whole number of at least 0");
  }
  return found->get<std::int64_t>();
}

const std::vector<Json>& JsonPart::list(const std::string& key) {
  const Json* found = find(key);
  if (found == nullptr || !found->is_array()) {
    wrong(key, "an array");
  }
  return found->get_ref<const Json::array_t&>();
}

JsonPart JsonPart::child(const std::string& key) {
  const Json* found = find(key);
  if (found == nullptr) {
    wrong(key, "an object");
  }
  return JsonPart(*found, where_ + "." + key);
}

JsonPart JsonPart::at(const std::string& key, std::size_t index, const Json& json) const {
  return JsonPart(json, where_ + "." + key + "[" + std::to_string(index) + "]");
}

void JsonPart::finish() const {
  std::string unknown;
  for (const auto& [key, value] : json_.items()) {
    if (!asked_.contains(key)) {
      unknown += (unknown.empty() ? "\"" : ", \"") + io::shortened(key, 60) + '"';
    }
  }
  MOELORA_CHECK(unknown.empty(), where_, ": has ", unknown, ", which is not supported");
}

void JsonPart::refuse(const std::string& what) const {
  throw Error(where_ + ": " + io::shortened(what, 200) + " is not supported");
}

void JsonPart::wrong(const std::string& key, const std::string& expected) const {
  const auto found = json_.find(key);
  throw Error(
      where_ + "." + key + ": expected " + expected + ", found " +
      (found == json_.end() ? "none" : io::shortened(found->dump(-1, ' ', false, Json::error_handler_t::replace), 80)));
}

}  // namespace moelora::model::tokenizers
