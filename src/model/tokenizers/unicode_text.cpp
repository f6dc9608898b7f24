#include "model/tokenizers/unicode_text.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <cstdint>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

const icu::Normalizer2& normalizer_of(NormalForm form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* found = nullptr;
  switch (form) {
    case NormalForm::nfc:
      found = icu::Normalizer2::getNFCInstance(status);
      break;
    case NormalForm::nfd:
      found = icu::Normalizer2::getNFDInstance(status);
      break;
    case NormalForm::nfkc:
      found = icu::Normalizer2::getNFKCInstance(status);
      break;
    case NormalForm::nfkd:
      found = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  MOELORA_CHECK(U_SUCCESS(status) && found != nullptr,
                "ICU has no tables of Unicode's normal forms: ", u_errorName(status), "; install its data (libicu)");
  return *found;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x80; });
}

bool is_tail(unsigned char c) { return (c & 0xC0) == 0x80; }

/// The bytes from `at` on that some character begins with, at least one; `at` is not the beginning of a whole one.
std::size_t broken_length(std::string_view bytes, std::size_t at) {
  const auto byte = [&](std::size_t i) { return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0; };
  const unsigned char first = byte(at), second = byte(at + 1);
  if (first >= 0xE0 && first <= 0xEF) {
    return (first == 0xE0   ? second >= 0xA0 && second <= 0xBF
            : first == 0xED ? second >= 0x80 && second <= 0x9F
                            : is_tail(second))
               ? 2
               : 1;
  }
  if (first >= 0xF0 && first <= 0xF4 &&
      (first == 0xF0   ? second >= 0x90 && second <= 0xBF
       : first == 0xF4 ? second >= 0x80 && second <= 0x8F
                       : is_tail(second))) {
    return is_tail(byte(at + 2)) ? 3 : 2;
  }
  return 1;
}

/// The character at `at`, where one begins.
std::uint32_t character_at(std::string_view text, std::size_t at, std::size_t length) {
  if (length == 1) {
    return static_cast<unsigned char>(text[at]);
  }
  std::uint32_t code = static_cast<unsigned char>(text[at]) & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    code = code << 6 | (static_cast<unsigned char>(text[at + i]) & 0x3FU);
  }
  return code;
}

std::uint32_t first_character(std::string_view text, std::size_t& length) {
  length = std::max<std::size_t>(1, io::utf8_length(text, 0));
  return character_at(text, 0, length);
}

std::uint32_t last_character(std::string_view text, std::size_t& length) {
  length = 1;
  while (length < text.size() && length < 4 && is_tail(static_cast<unsigned char>(text[text.size() - length]))) {
    ++length;
  }
  return character_at(text, text.size() - length, length);
}

bool is_blank(std::uint32_t code) { return u_isUWhiteSpace(static_cast<UChar32>(code)) != 0; }

bool is_of_word(std::uint32_t code) {
  const auto character = static_cast<UChar32>(code);
  return u_isUAlphabetic(character) != 0 || u_hasBinaryProperty(character, UCHAR_JOIN_CONTROL) != 0 ||
         (U_GET_GC_MASK(character) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

}  // namespace

std::size_t blanks_at_begin(std::string_view text) {
  std::size_t at = 0, length = 0;
  while (at < text.size() && is_blank(first_character(text.substr(at), length))) {
    at += length;
  }
  return at;
}

std::size_t blanks_at_end(std::string_view text) {
  std::size_t end = text.size(), length = 0;
  while (end > 0 && is_blank(last_character(text.substr(0, end), length))) {
    end -= length;
  }
  return text.size() - end;
}

bool begins_with_word(std::string_view text) {
  std::size_t length = 0;
  return !text.empty() && is_of_word(first_character(text, length));
}

bool ends_with_word(std::string_view text) {
  std::size_t length = 0;
  return !text.empty() && is_of_word(last_character(text, length));
}

std::string normalized(std::string_view text, NormalForm form) {
  if (is_ascii(text)) {
    return std::string(text);
  }
  std::string result;
  result.reserve(text.size());
  icu::StringByteSink<std::string> sink(&result);
  UErrorCode status = U_ZERO_ERROR;
  MOELORA_CHECK(text.size() < std::size_t{1} << 30, "expected a text of less than 1 GiB, found ", text.size(),
                " bytes");
  normalizer_of(form).normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(text.size())), sink,
                                    nullptr, status);
  MOELORA_CHECK(U_SUCCESS(status), "ICU cannot normalise a text of ", text.size(), " bytes: ", u_errorName(status));
  return result;
}

std::string lowercased(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = std::max<std::size_t>(1, io::utf8_length(text, at));
    if (length == 1) {
      const char c = text[at];
      result += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    } else {
      const std::uint32_t code = character_at(text, at, length);
      if (code == 0x130) {  // the one character whose lower case is two
        result += "i\u0307";
      } else {
        io::append_utf8(result, static_cast<std::uint32_t>(u_tolower(static_cast<UChar32>(code))));
      }
    }
    at += length;
  }
  return result;
}

bool is_valid_utf8(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length = static_cast<unsigned char>(bytes[at]) < 0x80 ? 1 : io::utf8_length(bytes, at);
    if (length == 0) {
      return false;
    }
    at += length;
  }
  return true;
}

std::string valid_utf8(std::string_view bytes) {
  std::string result;
  result.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const std::size_t length = io::utf8_length(bytes, at);
    if (length > 0) {
      result += bytes.substr(at, length);
      at += length;
    } else {
      result += "\uFFFD";
      at += broken_length(bytes, at);
    }
  }
  return result;
}

}  // namespace moelora::model::tokenizers
