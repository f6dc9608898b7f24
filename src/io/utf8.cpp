#include "moelora/io/utf8.h"

#include <algorithm>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

bool is_continuation_byte(std::string_view text, std::size_t at) {
  return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
}

std::string from_utf16(std::string_view bytes, bool big_endian, const std::string& label) {
  MOELORA_CHECK(bytes.size() % 2 == 0, label,
                ": this UTF-16 text ends in the middle of a character; get the whole file");
  const auto unit = [&](std::size_t at) {
    const auto first = static_cast<unsigned char>(bytes[at]);
    const auto second = static_cast<unsigned char>(bytes[at + 1]);
    return static_cast<std::uint32_t>(big_endian ? first << 8 | second : second << 8 | first);
  };
  std::string text;
  text.reserve(bytes.size());
  std::int64_t line = 1;
  for (std::size_t at = 0; at < bytes.size(); at += 2) {
    std::uint32_t code = unit(at);
    if (code >= 0xd800 && code < 0xe000) {
      const std::uint32_t low = at + 2 < bytes.size() ? unit(at + 2) : 0;
      MOELORA_CHECK(code < 0xdc00 && low >= 0xdc00 && low < 0xe000, label, ":", line,
                    ": half a character in a text that looks like UTF-16; save the file as UTF-8");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
      at += 2;
    }
    line += code == '\n' ? 1 : 0;
    append_utf8(text, code);
  }
  return text;
}

}  // namespace

void append_utf8(std::string& text, std::uint32_t code) {
  if (code < 0x80) {
    text.push_back(static_cast<char>(code));
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr std::uint32_t kLead[] = {0, 0xc0, 0xe0, 0xf0};
  text.push_back(static_cast<char>(kLead[more] | code >> (6 * more)));
  for (int i = more - 1; i >= 0; --i) {
    text.push_back(static_cast<char>(0x80 | (code >> (6 * i) & 0x3f)));
  }
}

std::string to_utf8(std::string bytes, const std::string& label) {
  const std::string_view view = bytes;
  if (view.starts_with("\xef\xbb\xbf")) {
    return bytes.substr(3);
  }
  const auto is_zero = [&](std::size_t at) { return at < view.size() && view[at] == '\0'; };
  const auto is_ascii = [&](std::size_t at) {
    return at < view.size() && view[at] != '\0' && static_cast<unsigned char>(view[at]) < 0x80;
  };
  const bool marked_little = view.starts_with("\xff\xfe");
  const bool marked_big = view.starts_with("\xfe\xff");
  const bool utf32 = (marked_little && is_zero(2) && is_zero(3)) ||
                     view.starts_with(std::string_view("\0\0\xfe\xff", 4)) ||
                     (is_ascii(0) && is_zero(1) && is_zero(2) && is_zero(3)) ||
                     (is_zero(0) && is_zero(1) && is_zero(2) && is_ascii(3));
  MOELORA_CHECK(!utf32, label, ": this text is in UTF-32; save it as UTF-8");
  if (marked_little || marked_big) {
    return from_utf16(view.substr(2), marked_big, label);
  }
  // JSON begins with two ASCII characters, or one and a character of a string.
  const bool little = is_ascii(0) && is_zero(1);
  const bool big = is_zero(0) && is_ascii(1);
  if ((little || big) && view.size() % 2 == 0) {
    return from_utf16(view, big, label);
  }
  return bytes;
}

std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const std::size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : 4;
  if (length == 1) {
    return 1;
  }
  if (lead < 0xc2 || lead > 0xf4) {
    return 0;
  }
  for (std::size_t i = 1; i < length; ++i) {
    if (!is_continuation_byte(text, at + i)) {
      return 0;
    }
  }
  const auto second = static_cast<unsigned char>(text[at + 1]);  // overlong forms, surrogates, beyond U+10FFFF
  const bool wrong = (lead == 0xe0 && second < 0xa0) || (lead == 0xed && second >= 0xa0) ||
                     (lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second >= 0x90);
  return wrong ? 0 : length;
}

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string shortened(std::string_view text, std::size_t characters) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    if (characters-- == 0) {
      return result + "…";
    }
    const std::size_t length = utf8_length(text, at);
    const auto byte = static_cast<unsigned char>(text[at]);
    if (length == 0) {
      result += '?';
    } else if (byte < 0x20 || byte == 0x7f) {
      result += ' ';
    } else {
      result += text.substr(at, length);
    }
    at += std::max<std::size_t>(length, 1);
  }
  return result;
}

}  // namespace moelora::io
