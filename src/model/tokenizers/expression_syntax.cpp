#include <unicode/uchar.h>

#include <cctype>

#include "model/tokenizers/expression.h"
#include "moelora/io/error.h"

namespace moelora::model::tokenizers {
namespace {

constexpr const char* kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";  // Oniguruma's \w

bool is_digit(char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; }
bool is_alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }
bool is_hex(char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      switch (pattern_[at_]) {
        case '\\':
          escape(/*in_class=*/false);
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          repetition();
          break;
        default:
          result_ += pattern_[at_++];
      }
    }
    return std::move(result_);
  }

 private:
  char peek(std::size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }

  [[noreturn]] void refuse(std::size_t length) const {
    throw Error(detail::concat(where_, ": expected an expression of literals, classes, \\p{…}, \\s, \\d, \\w, groups, ",
                               "look-around and repetitions, found '", pattern_.substr(at_, length), "' in ",
                               pattern_.substr(0, 200), ", which is not supported"));
  }

  void copy(std::size_t count) {
    result_ += pattern_.substr(at_, count);
    at_ += count;
  }

  void replace(std::size_t count, std::string_view by) {
    result_ += by;
    at_ += count;
  }

  void escape(bool in_class) {
    const char c = peek(1);
    switch (c) {
      case 's':
        return replace(2, R"(\p{White_Space})");
      case 'S':
        return replace(2, R"(\P{White_Space})");
      case 'd':
        return replace(2, R"(\p{Nd})");
      case 'D':
        return replace(2, R"(\P{Nd})");
      case 'w':
        return replace(2, in_class ? std::string(kWord) : "[" + std::string(kWord) + "]");
      case 'W':
        if (in_class) refuse(2);
        return replace(2, "[^" + std::string(kWord) + "]");
      case 'v':
        return replace(2, R"(\x0b)");
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return copy(2);
      case 'A':
      case 'z':
        if (in_class) refuse(2);
        return copy(2);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return hexadecimal();
      case 'u':
        for (std::size_t i = 2; i < 6; ++i) {
          if (!is_hex(peek(i))) refuse(2);
        }
        result_ += R"(\x{)" + std::string(pattern_.substr(at_ + 2, 4)) + "}";
        at_ += 6;
        return;
      default:
        if (c == '\0' || is_alnum(c) || static_cast<unsigned char>(c) >= 0x80) refuse(2);
        return copy(2);
    }
  }

  void property() {
    if (peek(2) != '{') refuse(3);
    std::size_t length = 3;
    while (is_alnum(peek(length)) || peek(length) == '_' || (length == 3 && peek(length) == '^')) ++length;
    if (peek(length) != '}' || length == 3) refuse(length + 1);
    const bool negated = peek(3) == '^';
    const std::string name(pattern_.substr(at_ + 3 + negated, length - 3 - negated));
    if (u_getPropertyValueEnum(UCHAR_SCRIPT, name.c_str()) == UCHAR_INVALID_CODE) return copy(length + 1);
    // A script alone is its extensions too to PCRE2.
    result_ += std::string(pattern_.substr(at_, 3 + negated)) + "sc:" + name + "}";
    at_ += length + 1;
  }

  void hexadecimal() {
    if (peek(2) == '{') {
      std::size_t length = 3;
      while (is_hex(peek(length))) ++length;
      if (peek(length) != '}' || length == 3 || length > 9) refuse(length + 1);
      return copy(length + 1);
    }
    // A byte of UTF-8 to Oniguruma above 0x7F, a code point to PCRE2.
    if (!is_hex(peek(2)) || !is_hex(peek(3)) || peek(2) > '7') refuse(4);
    copy(4);
  }

  void character_class() {
    const std::size_t begin = at_;
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') refuse(2);
    while (peek() != ']') {
      if (at_ >= pattern_.size()) {
        at_ = begin;
        refuse(20);
      }
      if (peek() == '\\') {
        escape(/*in_class=*/true);
      } else if (peek() == '[' || (peek() == '&' && peek(1) == '&')) {
        refuse(2);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void group() {
    if (peek(1) == '*') refuse(2);
    if (peek(1) != '?') return copy(1);
    for (const std::string_view opening : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"}) {
      if (!pattern_.substr(at_).starts_with(opening)) continue;
      // Further behind, alternatives of what stands before belong to it in Oniguruma.
      if (opening == "(?i)" && at_ > 0) refuse(opening.size());
      return copy(opening.size());
    }
    refuse(4);
  }

  void repetition() {
    std::size_t length = 1;
    while (is_digit(peek(length))) ++length;
    if (length == 1) refuse(3);
    const bool exact = peek(length) != ',';
    if (!exact) {
      ++length;
      while (is_digit(peek(length))) ++length;
    }
    // Possessive or lazy to PCRE2; to Oniguruma a repetition of the repetition, or none of it.
    if (peek(length) != '}' || peek(length + 1) == '+' || (exact && peek(length + 1) == '?')) refuse(length + 2);
    copy(length + 1);
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::string result_;
};

}  // namespace

std::string as_pcre2(std::string_view pattern, const std::string& where) { return Translator(pattern, where).run(); }

}  // namespace moelora::model::tokenizers
