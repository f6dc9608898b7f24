#pragma once
// Text as Python sees it: the reference's answer parsing and Rouge depend on what `str.strip`, `str.split` and slices
// of code points do. Strings are UTF-8; a byte that is not part of valid UTF-8 counts as one character of its own.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::eval::text {

struct CodePoint {
  char32_t value = 0;    ///< U+FFFD for an invalid byte
  std::size_t size = 1;  ///< bytes
  bool valid = true;
};

CodePoint code_point_at(std::string_view text, std::size_t offset);
bool is_space(char32_t c);  ///< As `str.isspace` for one character.

std::string_view strip(std::string_view text);
/// `text.split(separator)`: always at least one piece.
std::vector<std::string_view> split(std::string_view text, std::string_view separator);
/// `text.split()`: by runs of white space, no empty pieces.
std::vector<std::string_view> words(std::string_view text);
/// `text.replace(from, to, limit)`; limit < 0: all.
std::string replace(std::string_view text, std::string_view from, std::string_view to, std::int64_t limit = -1);
/// `text[count:]` in code points.
std::string_view drop_front(std::string_view text, std::int64_t count);
std::vector<std::string_view> characters(std::string_view text);

/// Columns of a terminal: 2 for East Asian wide characters, 0 for combining ones.
std::int64_t display_width(std::string_view text);
/// The text with invalid bytes replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace moelora::eval::text
