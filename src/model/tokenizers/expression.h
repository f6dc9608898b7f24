#pragma once
// The regular expressions of tokenizer.json. Hugging Face matches them with Oniguruma; here PCRE2 does, on expressions
// whose every construct means the same to both: `\s`, `\d` and `\w` are written out as Unicode properties, and what the
// two read differently is refused.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moelora::model::tokenizers {

struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool empty() const { return begin == end; }
};

class Expression {
 public:
  /// Error naming `where`: no expression, or one with a construct that is not supported.
  Expression(std::string_view pattern, const std::string& where);
  /// An expression that matches just this text.
  static Expression literal(std::string_view text, const std::string& where);
  Expression(Expression&&) noexcept;
  ~Expression();

  /// The first match at or after `from` in `text`, which is valid UTF-8; false if there is none. May be called by
  /// several threads. Error: the match takes more steps or memory than any sensible expression would.
  bool find(std::string_view text, std::size_t from, Span& match) const;

 private:
  struct Code;
  explicit Expression(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

/// The pattern as PCRE2 is given it. Error naming `where` and the construct that is not supported.
std::string as_pcre2(std::string_view pattern, const std::string& where);

}  // namespace moelora::model::tokenizers
