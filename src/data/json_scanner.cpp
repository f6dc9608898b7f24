#include "moelora/data/json_scanner.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

/// What stands between a string's quotes, its escapes resolved.
std::string unescaped(std::string_view text) {
  const bool plain = text.find('\\') == std::string_view::npos;
  return plain ? std::string(text) : nlohmann::json::parse('"' + std::string(text) + '"').get<std::string>();
}

class JsonScanner {
 public:
  JsonScanner(std::string_view text, std::size_t begin) : text_(text), at_(begin) {}

  JsonExtent scan() {
    JsonExtent extent;
    value(&extent.members);
    extent.end = at_;
    return extent;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw JsonFault{at_, what}; }

  bool ended() const { return at_ >= text_.size(); }
  char peek() const { return ended() ? '\0' : text_[at_]; }
  bool take(char c) {
    const bool is = !ended() && text_[at_] == c;
    at_ += is ? 1 : 0;
    return is;
  }
  void skip_blanks() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  std::string found() const {
    if (ended()) {
      return "found the end of the record";
    }
    const auto byte = static_cast<unsigned char>(text_[at_]);
    if (byte == '\n') {
      return "found the end of the line";
    }
    if (byte == 0) {
      return "found a zero byte";
    }
    const std::size_t length = io::utf8_length(text_, at_);
    return length == 0 ? not_utf8() : "found '" + std::string(text_.substr(at_, length)) + "'";
  }

  std::string not_utf8() const {
    constexpr const char* kDigits = "0123456789ABCDEF";
    const auto byte = static_cast<unsigned char>(text_[at_]);
    return std::string("found the byte 0x") + kDigits[byte / 16] + kDigits[byte % 16] +
           ", which is no UTF-8 here; save the file as UTF-8 (from GBK: iconv -f GBK -t UTF-8)";
  }

  void value(std::vector<JsonExtent::Member>* members) {
    switch (peek()) {
      case '{':
        return object(members);
      case '[':
        return array();
      case '"':
        string();
        return;
      case 't':
        return word("true");
      case 'f':
        return word("false");
      case 'n':
        return word("null");
      default:
        return number();
    }
  }

  void word(std::string_view expected) {
    if (!text_.substr(at_).starts_with(expected)) {
      fail("expected a value, " + found());
    }
    at_ += expected.size();
  }

  void digits() {
    if (peek() < '0' || peek() > '9') {
      fail("expected a digit, " + found());
    }
    while (peek() >= '0' && peek() <= '9') {
      ++at_;
    }
  }

  void number() {
    if (peek() != '-' && (peek() < '0' || peek() > '9')) {
      fail("expected a value, " + found());
    }
    take('-');
    if (!take('0')) {
      digits();
    }
    if (take('.')) {
      digits();
    }
    if (take('e') || take('E')) {
      if (!take('+')) {
        take('-');
      }
      digits();
    }
  }

  unsigned hex_digits() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) {
        fail("expected four hexadecimal digits behind \\u, " + found());
      }
      code = code * 16 + static_cast<unsigned>(digit);
      ++at_;
    }
    return code;
  }

  void escape() {
    const std::size_t backslash = at_ - 1;
    if (!take('u')) {
      if (std::string_view("\"\\/bfnrt").find(peek()) == std::string_view::npos || ended()) {
        fail("expected one of \"\\/bfnrtu behind a backslash, " + found());
      }
      ++at_;
      return;
    }
    const unsigned code = hex_digits();
    bool whole = code < 0xd800 || code >= 0xe000;
    if (code >= 0xd800 && code < 0xdc00 && take('\\') && take('u')) {
      const unsigned low = hex_digits();
      whole = low >= 0xdc00 && low < 0xe000;
    }
    if (!whole) {
      at_ = backslash;
      fail("half a character (a surrogate without its other half)");
    }
  }

  /// Returns what stands between the quotes, as written.
  std::string_view string() {
    const std::size_t begin = ++at_;
    while (true) {
      const char c = peek();
      const auto byte = static_cast<unsigned char>(c);
      if (ended() || byte == '\n') {
        fail("expected the '\"' that ends a string, " + found());
      }
      if (c == '"') {
        return text_.substr(begin, at_++ - begin);
      }
      if (c == '\\') {
        ++at_;
        escape();
      } else if (byte < 0x20) {
        fail(byte == 0 ? "found a zero byte in a string; is this a text file?"
                       : "found a control character in a string; write \\t, \\r or \\u00XX");
      } else {
        const std::size_t length = io::utf8_length(text_, at_);
        if (length == 0) {
          fail(not_utf8());
        }
        at_ += length;
      }
    }
  }

  void open() {
    constexpr int kDeepest = 200;  // deeper text is hostile: it would exhaust the stack
    if (++depth_ > kDeepest) {
      fail("brackets nest deeper than " + std::to_string(kDeepest));
    }
    ++at_;
    skip_blanks();
  }

  void object(std::vector<JsonExtent::Member>* members) {
    open();
    std::unordered_set<std::string> keys;
    bool more = !take('}');
    while (more) {
      skip_blanks();
      if (peek() != '"') {
        fail("expected a key in '\"', " + found());
      }
      const std::size_t begin = at_;
      const std::string_view key = string();
      if (!keys.insert(unescaped(key)).second) {
        at_ = begin;
        fail("the key \"" + io::shortened(key, 40) + "\" appears twice");
      }
      skip_blanks();
      if (!take(':')) {
        fail("expected ':' behind a key, " + found());
      }
      skip_blanks();
      if (members != nullptr) {
        members->push_back({key, at_, at_});
      }
      value(nullptr);
      if (members != nullptr) {
        members->back().value_end = at_;
      }
      skip_blanks();
      more = take(',');
      if (!more && !take('}')) {
        fail("expected ',' or '}', " + found());
      }
    }
    --depth_;
  }

  void array() {
    open();
    bool more = !take(']');
    while (more) {
      skip_blanks();
      value(nullptr);
      skip_blanks();
      more = take(',');
      if (!more && !take(']')) {
        fail("expected ',' or ']', " + found());
      }
    }
    --depth_;
  }

  std::string_view text_;
  std::size_t at_;
  int depth_ = 0;
};

}  // namespace

std::string JsonExtent::Member::name() const { return unescaped(key); }

JsonExtent scan_json(std::string_view text, std::size_t begin) { return JsonScanner(text, begin).scan(); }

}  // namespace moelora::data
