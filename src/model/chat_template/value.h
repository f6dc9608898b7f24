#pragma once
// Values of a Jinja program, with Python's meaning: JSON values, shared and never changed, and "undefined".

#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::model::jinja {

using Json = nlohmann::ordered_json;
/// nullptr: undefined. none is a null.
using Value = std::shared_ptr<const Json>;

inline Value value(Json json) { return std::make_shared<const Json>(std::move(json)); }
/// A part of another value, which it keeps alive.
inline Value part_of(const Value& whole, const Json& part) { return Value(whole, &part); }

bool is_true(const Value& value);
/// What Python's str() gives; "" for undefined.
std::string text_of(const Value& value);
/// What json.dumps(…, ensure_ascii=False) gives. indent < 0: in one line.
std::string json_text(const Json& json, int indent = -1, int depth = 0);
const char* type_of(const Value& value);  ///< For messages.

/// Characters of UTF-8 texts.
std::vector<std::string_view> characters(std::string_view text);
/// Python's str.strip with blanks (`among` empty) or a set of characters.
std::string_view stripped(std::string_view text, std::string_view among, bool left, bool right);

}  // namespace moelora::model::jinja
