#include "model/chat_template/lexer.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::jinja {
namespace {

constexpr std::string_view kSigns[] = {"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<",
                                       ">",  "=",  "(",  ")",  "[",  "]",  "{", "}", ".", ",", ":", "|"};

bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool begins_name(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }

std::string with_plain_newlines(std::string_view source) {
  std::string result;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result += '\n';
      i += i + 1 < source.size() && source[i + 1] == '\n' ? 1 : 0;
    } else {
      result += source[i];
    }
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& where) : source_(with_plain_newlines(source)), where_(where) {}

  std::vector<Part> run() {
    while (at_ < source_.size()) {
      const std::size_t open = next_opening();
      std::string text = source_.substr(at_, open - at_);
      if (open == source_.size()) {
        add_text(std::move(text));
        break;
      }
      const char kind = source_[open + 1];
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      if (sign == '-') {
        while (!text.empty() && is_blank(text.back())) text.pop_back();
      } else if (sign != '+' && kind != '{') {
        strip_line_begin(text);
      }
      add_text(std::move(text));
      at_ = open + 2 + (sign == '-' || (sign == '+' && kind != '{') ? 1 : 0);
      line_start_ = false;
      if (kind == '#') {
        comment();
      } else {
        inside(kind == '{');
      }
    }
    return std::move(parts_);
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const {
    throw Error(detail::concat(where_, ", line ", line_of(at_), ": ", what));
  }

  std::size_t line_of(std::size_t at) const {
    return 1 + static_cast<std::size_t>(std::count(
                   source_.begin(), source_.begin() + static_cast<std::ptrdiff_t>(std::min(at, source_.size())), '\n'));
  }

  std::size_t next_opening() const {
    for (std::size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return source_.size();
  }

  void add_text(std::string text) {
    if (!text.empty()) parts_.push_back({Part::Kind::text, std::move(text), {}, line_of(at_)});
  }

  /// lstrip_blocks: blanks between the line's begin and a tag.
  void strip_line_begin(std::string& text) const {
    const std::size_t newline = text.rfind('\n');
    const std::size_t begin = newline == std::string::npos ? 0 : newline + 1;
    if ((newline != std::string::npos || line_start_) &&
        std::all_of(text.begin() + static_cast<std::ptrdiff_t>(begin), text.end(), is_blank)) {
      text.resize(begin);
    }
  }

  /// Behind a closing sign at at_: "-" takes all blanks, and trim_blocks the newline behind a tag.
  void close(char sign, bool trims_newline) {
    if (sign == '-') {
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
    } else if (sign != '+' && trims_newline && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
    line_start_ = at_ == 0 || source_[at_ - 1] == '\n';
  }

  void comment() {
    const std::size_t end = source_.find("#}", at_);
    if (end == std::string::npos) wrong("a comment {# without its end #}");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    close(sign, true);
  }

  void inside(bool is_expression) {
    Part part;
    part.kind = is_expression ? Part::Kind::expression : Part::Kind::tag;
    part.line = line_of(at_);
    const std::string_view end = is_expression ? "}}" : "%}";
    std::string open;  // brackets
    while (true) {
      while (at_ < source_.size() && is_blank(source_[at_])) ++at_;
      const std::string_view rest = std::string_view(source_).substr(at_);
      if (rest.empty()) wrong(is_expression ? "an expression {{ without its end }}" : "a tag {% without its end %}");
      const bool signed_end = (rest[0] == '-' || (rest[0] == '+' && !is_expression)) && rest.substr(1).starts_with(end);
      if (open.empty() && (signed_end || rest.starts_with(end))) {
        at_ += signed_end ? 3 : 2;
        const bool begins_raw = part.words.size() == 1 && part.words.front().is("raw");
        close(signed_end ? rest[0] : '\0', !is_expression && !begins_raw);
        break;
      }
      word(rest, part.words, open);
    }
    part.words.emplace_back();
    if (!is_expression && part.words.front().is("raw") && part.words.size() == 2) {
      raw();
    } else {
      parts_.push_back(std::move(part));
    }
  }

  void raw() {
    for (std::size_t open = source_.find("{%", at_); open != std::string::npos; open = source_.find("{%", open + 1)) {
      std::size_t i = open + 2;
      const bool strip = i < source_.size() && source_[i] == '-';
      if (strip) ++i;
      while (i < source_.size() && is_blank(source_[i])) ++i;
      if (source_.compare(i, 6, "endraw") != 0) continue;
      std::string text = source_.substr(at_, open - at_);
      if (strip) {
        while (!text.empty() && is_blank(text.back())) text.pop_back();
      } else {
        strip_line_begin(text);
      }
      add_text(std::move(text));
      const std::size_t end = source_.find("%}", i);
      if (end == std::string::npos) break;
      at_ = end + 2;
      return close(source_[end - 1], true);
    }
    wrong("{% raw %} without {% endraw %}");
  }

  void word(std::string_view rest, std::vector<Word>& words, std::string& open) {
    if (begins_name(rest[0])) {
      std::size_t length = 1;
      while (length < rest.size() && (begins_name(rest[length]) || is_digit(rest[length]))) ++length;
      words.push_back({Word::Kind::name, std::string(rest.substr(0, length))});
      at_ += length;
    } else if (is_digit(rest[0])) {
      std::size_t length = 1;
      while (length < rest.size() && is_digit(rest[length])) ++length;
      const bool real = length + 1 < rest.size() && rest[length] == '.' && is_digit(rest[length + 1]);
      if (real) {
        ++length;
        while (length < rest.size() && is_digit(rest[length])) ++length;
      }
      if (length > 18) wrong("a number of more than 18 digits");
      words.push_back({real ? Word::Kind::real : Word::Kind::integer, std::string(rest.substr(0, length))});
      at_ += length;
    } else if (rest[0] == '\'' || rest[0] == '"') {
      std::size_t end = 1;
      while (end < rest.size() && rest[end] != rest[0]) end += rest[end] == '\\' ? 2 : 1;
      if (end >= rest.size()) wrong("a string without its end");
      words.push_back({Word::Kind::string, unescaped(rest.substr(1, end - 1))});
      at_ += end + 1;
    } else {
      const auto* sign = std::find_if(std::begin(kSigns), std::end(kSigns),
                                      [&](std::string_view one) { return rest.starts_with(one); });
      if (sign == std::end(kSigns)) wrong("'" + io::shortened(rest, 1) + "' where Jinja has no such sign");
      bracket(*sign, open);
      words.push_back({Word::Kind::sign, std::string(*sign)});
      at_ += sign->size();
    }
  }

  void bracket(std::string_view sign, std::string& open) const {
    if (sign == "(" || sign == "[" || sign == "{") {
      if (open.size() >= 100) wrong("more than 100 brackets in each other");
      open += sign == "(" ? ')' : sign == "[" ? ']' : '}';
    } else if (sign == ")" || sign == "]" || sign == "}") {
      if (open.empty() || open.back() != sign[0]) wrong("a '" + std::string(sign) + "' that closes nothing");
      open.pop_back();
    }
  }

  std::string unescaped(std::string_view text) const {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        result += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view kNames = "nrtabfv\\'\"", kValues = "\n\r\t\a\b\f\v\\'\"";
      if (const std::size_t known = kNames.find(c); known != kNames.npos) {
        result += kValues[known];
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const std::size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        std::uint32_t code = 0;
        for (std::size_t d = 1; d <= digits; ++d) {
          if (i + d >= text.size() || std::isxdigit(static_cast<unsigned char>(text[i + d])) == 0) {
            wrong("an escape \\" + std::string(1, c) + " without its digits");
          }
          code = code * 16 + static_cast<std::uint32_t>(std::stoi(std::string(1, text[i + d]), nullptr, 16));
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) wrong("an escape that is no character");
        io::append_utf8(result, code);
        i += digits;
      } else if (c != '\n') {  // Python keeps what it does not know; a newline goes
        if (is_digit(c)) wrong("an octal escape, which is not supported");
        result += '\\';
        result += c;
      }
    }
    return result;
  }

  std::string source_;
  const std::string& where_;
  std::size_t at_ = 0;
  bool line_start_ = true;
  std::vector<Part> parts_;
};

}  // namespace

std::vector<Part> lex(std::string_view source, const std::string& where) { return Lexer(source, where).run(); }

}  // namespace moelora::model::jinja
