#pragma once
// The expressions of a Jinja program.

#include <string>
#include <vector>

#include "model/chat_template/lexer.h"
#include "model/chat_template/nodes.h"

namespace moelora::model::jinja {

/// Reads expressions from the words of one part. Error naming `where` and the line.
class Reader {
 public:
  Reader(const Part& part, const std::string& where) : part_(part), where_(where) {}

  Node expression();          ///< With `a if b else c`.
  Node list_or_expression();  ///< Several with commas between them are a list.
  Node without_condition();   ///< Where an `if` behind it has another meaning, as in loops.
  const Word& word(std::size_t ahead = 0) const;
  bool skip_if(std::string_view sign);
  void expect(std::string_view sign);
  std::string name();
  void expect_end();
  bool at_end() const { return word().kind == Word::Kind::end; }
  [[noreturn]] void fail(const std::string& what) const;

 private:
  Node conjunction(bool is_or);
  Node negation();
  Node comparison();
  Node chain(int level);
  Node unary(bool with_filters);
  Node primary();
  Node postfix(Node node);
  Node filters(Node node);
  Node test(Node node);
  Node subscript(Node object);
  Node call(Node callee);
  Node mapping();
  std::vector<Node> list(std::string_view end);
  Arguments arguments();

  const Part& part_;
  const std::string& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace moelora::model::jinja
