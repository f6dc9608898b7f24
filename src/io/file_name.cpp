#include "moelora/io/file_name.h"

#include <cstdio>

#include "moelora/io/sha256.h"

namespace moelora::io {
namespace {

constexpr std::size_t kLongest = 200;  // bytes; file systems take 255, and temporary names append some
constexpr std::size_t kHashDigits = 16;

bool is_escaped_anywhere(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f || std::string_view("/\\%:*?\"<>|").find(c) != std::string_view::npos;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

/// The longest beginning of at most `size` bytes that ends in no half character and no half %XX.
std::string_view whole_beginning(std::string_view text, std::size_t size) {
  while (size > 0 && is_continuation(text[size])) {
    --size;
  }
  for (std::size_t back = 1; back <= 2 && back <= size; ++back) {
    if (text[size - back] == '%') {
      size -= back;
      break;
    }
  }
  return text.substr(0, size);
}

}  // namespace

std::string file_name_for(std::string_view name) {
  if (name.empty()) {
    return "%";  // no other name becomes this one: '%' is always followed by two digits or '~'
  }
  std::string result;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    const bool first = i == 0;
    const bool last = i + 1 == name.size();
    const bool at_an_end = (first && (c == '.' || c == '-' || c == ' ')) || (last && (c == '.' || c == ' '));
    if (is_escaped_anywhere(c) || at_an_end) {
      char code[4];
      std::snprintf(code, sizeof code, "%%%02X", static_cast<unsigned>(static_cast<unsigned char>(c)));
      result += code;
    } else {
      result += c;
    }
  }
  if (result.size() > kLongest) {
    const std::string hash = Sha256().update(name).hex().substr(0, kHashDigits);
    result = std::string(whole_beginning(result, kLongest - kHashDigits - 2)) + "%~" + hash;
  }
  return result;
}

}  // namespace moelora::io
