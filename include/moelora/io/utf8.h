#pragma once
// Text as UTF-8: reading other encodings of Unicode, checking, and cutting at whole characters.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moelora::io {

/// The bytes as UTF-8 without byte-order mark: UTF-16 of either byte order, with a mark or known by its zero bytes, is
/// converted; anything else stays as it is. Error naming `label`: UTF-32, or UTF-16 that is no Unicode.
std::string to_utf8(std::string bytes, const std::string& label);

/// The number of bytes of the character at `at`, or 0 if there is no valid UTF-8.
std::size_t utf8_length(std::string_view text, std::size_t at);

/// Appends a code point (up to U+10FFFF; none is refused).
void append_utf8(std::string& text, std::uint32_t code);

/// The characters of text that is valid UTF-8 (otherwise: bytes that begin one).
std::size_t count_characters(std::string_view text);

/// At most `characters` characters for a message: what follows becomes "…", control characters become blanks and
/// bytes that are no UTF-8 become '?'.
std::string shortened(std::string_view text, std::size_t characters);

}  // namespace moelora::io
