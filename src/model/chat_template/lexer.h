#pragma once
// A Jinja template cut into text, expressions ({{ … }}) and tags ({% … %}), and those into words.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::model::jinja {

struct Word {
  enum class Kind { name, string, integer, real, sign, end };
  Kind kind = Kind::end;
  std::string text;  ///< of a string its value
  bool is(std::string_view sign) const { return (kind == Kind::sign || kind == Kind::name) && text == sign; }
};

struct Part {
  enum class Kind { text, expression, tag };
  Kind kind = Kind::text;
  std::string text;         ///< of a text
  std::vector<Word> words;  ///< of the others; the last is an end
  std::size_t line = 1;
};

/// With trim_blocks and lstrip_blocks, without the template's last newline. Error, naming `where` and the line.
std::vector<Part> lex(std::string_view source, const std::string& where);

}  // namespace moelora::model::jinja
