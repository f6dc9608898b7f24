#include "model/chat_template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "model/tokenizers/unicode_text.h"
#include "moelora/io/utf8.h"

namespace moelora::model::jinja {
namespace {

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    constexpr std::string_view kSpecial = "\"\\\n\r\t\b\f", kNames = "\"\\nrtbf";
    if (const std::size_t at = kSpecial.find(c); at != kSpecial.npos) {
      result += '\\';
      result += kNames[at];
    } else if (byte < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", byte);
      result += code;
    } else {
      result += c;
    }
  }
  return result + '"';
}

// As Python writes it: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
std::string real_text(double number) {
  if (!std::isfinite(number)) {
    return std::isnan(number) ? "nan" : number < 0 ? "-inf" : "inf";
  }
  const double size = std::abs(number);
  const auto format =
      size == 0.0 || (size >= 1e-4 && size < 1e16) ? std::chars_format::fixed : std::chars_format::scientific;
  char text[400];
  const auto [end, failure] = std::to_chars(text, text + sizeof text, number, format);
  const std::string result(text, end);
  return result.find_first_of(".e") == std::string::npos ? result + ".0" : result;
}

std::string representation(const Json& json) {
  if (json.is_string()) {
    const auto& text = json.get_ref<const std::string&>();
    const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
    std::string result(1, quote);
    for (const char c : text) {
      if (c == quote || c == '\\') result += '\\';
      c == '\n' ? result += "\\n" : c == '\r' ? result += "\\r" : c == '\t' ? result += "\\t" : result += c;
    }
    return result + quote;
  }
  if (json.is_array()) {
    std::string result = "[";
    for (const Json& item : json) result += (result.size() > 1 ? ", " : "") + representation(item);
    return result + "]";
  }
  if (json.is_object()) {
    std::string result = "{";
    for (const auto& [key, item] : json.items()) {
      result += (result.size() > 1 ? ", " : "") + representation(Json(key)) + ": " + representation(item);
    }
    return result + "}";
  }
  return text_of(value(json));
}

}  // namespace

bool is_true(const Value& value) {
  if (value == nullptr || value->is_null()) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0.0;
  return value->is_string() ? !value->get_ref<const std::string&>().empty() : !value->empty();
}

std::string text_of(const Value& value) {
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (value->is_null()) return "None";
  if (value->is_boolean()) return value->get<bool>() ? "True" : "False";
  if (value->is_number_float()) return real_text(value->get<double>());
  return value->is_number() ? value->dump() : representation(*value);
}

std::string json_text(const Json& json, int indent, int depth) {
  const auto line = [&](int at) {
    return indent < 0 ? std::string()
                      : "\n" + std::string(static_cast<std::size_t>(at) * static_cast<std::size_t>(indent), ' ');
  };
  const std::string between = indent < 0 ? ", " : ",";
  std::string result;
  if (json.is_string()) return json_string(json.get_ref<const std::string&>());
  if (json.is_number_float()) return real_text(json.get<double>());
  if (!json.is_structured()) return json.dump();
  if (json.empty()) return json.is_array() ? "[]" : "{}";
  for (const auto& [key, item] : json.items()) {
    result += (result.empty() ? "" : between) + line(depth + 1);
    if (json.is_object()) result += json_string(key) + ": ";
    result += json_text(item, indent, depth + 1);
  }
  return (json.is_array() ? "[" : "{") + result + line(depth) + (json.is_array() ? "]" : "}");
}

const char* type_of(const Value& value) {
  return value == nullptr ? "an undefined value" : value->is_null() ? "none" : value->type_name();
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = std::max<std::size_t>(1, io::utf8_length(text, at));
    result.push_back(text.substr(at, length));
    at += length;
  }
  return result;
}

std::string_view stripped(std::string_view text, std::string_view among, bool left, bool right) {
  if (among.empty()) {
    // Python's blanks are Unicode's and four control characters.
    const auto is_control = [](char c) { return c >= '\x1c' && c <= '\x1f'; };
    for (std::size_t before = text.size() + 1; left && before != text.size();) {
      before = text.size();
      text.remove_prefix(tokenizers::blanks_at_begin(text));
      while (!text.empty() && is_control(text.front())) text.remove_prefix(1);
    }
    for (std::size_t before = text.size() + 1; right && before != text.size();) {
      before = text.size();
      text.remove_suffix(tokenizers::blanks_at_end(text));
      while (!text.empty() && is_control(text.back())) text.remove_suffix(1);
    }
    return text;
  }
  const std::vector<std::string_view> set = characters(among), all = characters(text);
  const auto is_in = [&](std::string_view one) { return std::find(set.begin(), set.end(), one) != set.end(); };
  std::size_t first = 0, last = all.size();
  while (left && first < last && is_in(all[first])) text.remove_prefix(all[first++].size());
  while (right && last > first && is_in(all[last - 1])) text.remove_suffix(all[--last].size());
  return text;
}

}  // namespace moelora::model::jinja
