#include "moelora/data/text_template.h"

#include <algorithm>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

std::string template_place(std::string_view text, std::size_t at) {
  return detail::concat("character ", io::count_characters(text.substr(0, at)) + 1, " of \"", io::shortened(text, 80),
                        "\"");
}

}  // namespace

TextTemplate::TextTemplate(std::string_view text) : text_(text) {
  lines_.emplace_back();
  std::string literal;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if ((c == '{' || c == '}') && at + 1 < text.size() && text[at + 1] == c) {
      literal += c;
      ++at;
    } else if (c == '{') {
      const std::size_t end = text.find_first_of("{}\n", at + 1);
      MOELORA_CHECK(end != std::string_view::npos && text[end] == '}', "expected '}' behind the field that begins at ",
                    template_place(text, at), "; write {{ for a brace");
      Field field{std::string(text.substr(at + 1, end - at - 1)), false};
      if (field.name.ends_with('?')) {
        field.name.pop_back();
        field.optional = true;
      }
      MOELORA_CHECK(!field.name.empty(), "expected a field's name in the braces at ", template_place(text, at),
                    "; write {{ and }} for braces");
      lines_.back().push_back({std::exchange(literal, {}), std::move(field)});
      at = end;
    } else if (c == '}') {
      throw Error(detail::concat("found '}' without '{' at ", template_place(text, at), "; write }} for a brace"));
    } else if (c == '\n') {
      lines_.back().push_back({std::exchange(literal, {}), {}});
      lines_.emplace_back();
    } else {
      literal += c;
    }
  }
  lines_.back().push_back({std::move(literal), {}});
}

std::vector<TextTemplate::Field> TextTemplate::fields() const {
  std::vector<Field> fields;
  for (const Line& line : lines_) {
    for (const Piece& piece : line) {
      if (!piece.field.name.empty() && std::find(fields.begin(), fields.end(), piece.field) == fields.end()) {
        fields.push_back(piece.field);
      }
    }
  }
  return fields;
}

std::string TextTemplate::fill(const Value& value) const {
  std::string filled;
  bool has_fields = false;
  bool has_values = false;
  bool first = true;
  for (const Line& line : lines_) {
    std::string text;
    bool line_has_fields = false;
    bool line_has_values = false;
    for (const Piece& piece : line) {
      text += piece.text;
      if (!piece.field.name.empty()) {
        const std::string part = value(piece.field);
        line_has_fields = true;
        line_has_values = line_has_values || !part.empty();
        text += part;
      }
    }
    has_fields = has_fields || line_has_fields;
    has_values = has_values || line_has_values;
    if (!line_has_fields || line_has_values) {
      filled += first ? text : "\n" + text;
      first = false;
    }
  }
  return has_fields && !has_values ? std::string() : filled;
}

}  // namespace moelora::data
