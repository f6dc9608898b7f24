#include "model/chat_template/expressions.h"

#include <algorithm>
#include <set>

#include "model/chat_template/expression_nodes.h"
#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::model::jinja {
namespace {

constexpr int kDeepest = 60;  // expressions in each other

}  // namespace

Value Given::at(std::size_t position, const std::string& name) const {
  if (position < positional.size()) return positional[position];
  const auto found = named.find(name);
  return found == named.end() ? nullptr : found->second;
}

void Reader::fail(const std::string& what) const {
  throw Error(detail::concat(where_, ", line ", part_.line, ": ", what));
}

const Word& Reader::word(std::size_t ahead) const { return part_.words[std::min(at_ + ahead, part_.words.size() - 1)]; }

bool Reader::skip_if(std::string_view sign) {
  if (!word().is(sign)) return false;
  ++at_;
  return true;
}

void Reader::expect(std::string_view sign) {
  if (!skip_if(sign)) {
    fail(detail::concat("expected '", sign, "', found ",
                        at_end() ? std::string("the end of the tag") : "'" + io::shortened(word().text, 40) + "'"));
  }
}

std::string Reader::name() {
  if (word().kind != Word::Kind::name) fail("expected a name, found '" + io::shortened(word().text, 40) + "'");
  return part_.words[at_++].text;
}

void Reader::expect_end() {
  if (!at_end()) fail("'" + io::shortened(word().text, 40) + "' where the tag should end");
}

Node Reader::expression() {
  if (++depth_ > kDeepest) fail("more than 60 expressions in each other");
  Node node = conjunction(/*is_or=*/true);
  while (skip_if("if")) {
    auto choice = std::make_unique<Condition>();
    choice->then = std::move(node);
    choice->condition = conjunction(true);
    if (skip_if("else")) choice->otherwise = expression();
    node = std::move(choice);
  }
  --depth_;
  return node;
}

Node Reader::without_condition() { return conjunction(/*is_or=*/true); }

Node Reader::list_or_expression() {
  Node first = expression();
  if (!word().is(",")) return first;
  auto made = std::make_unique<List>();
  made->items.push_back(std::move(first));
  while (skip_if(",") && !at_end()) made->items.push_back(expression());
  return made;
}

Node Reader::conjunction(bool is_or) {
  const char* sign = is_or ? "or" : "and";
  Node left = is_or ? conjunction(false) : negation();
  while (skip_if(sign)) {
    Node right = is_or ? conjunction(false) : negation();
    left = std::make_unique<Binary>(sign, std::move(left), std::move(right));
  }
  return left;
}

Node Reader::negation() {
  if (!skip_if("not")) return comparison();
  if (++depth_ > kDeepest) fail("more than 60 expressions in each other");
  Node operand = negation();
  --depth_;
  return std::make_unique<Not>(std::move(operand));
}

Node Reader::comparison() {
  static const std::set<std::string> signs{"==", "!=", "<", "<=", ">", ">="};
  Node first = chain(0);
  auto made = std::make_unique<Comparison>();
  while (true) {
    std::string sign;
    if (word().kind == Word::Kind::sign && signs.contains(word().text)) {
      sign = word().text;
      ++at_;
    } else if (skip_if("in")) {
      sign = "in";
    } else if (word().is("not") && word(1).is("in")) {
      at_ += 2;
      sign = "not in";
    } else {
      break;
    }
    made->rest.emplace_back(sign, chain(0));
  }
  if (made->rest.empty()) return first;
  made->first = std::move(first);
  return made;
}

/// Operators of two sides, from the weakest: + -, ~, * / // %, **.
Node Reader::chain(int level) {
  static const std::vector<std::set<std::string>> signs{{"+", "-"}, {"~"}, {"*", "/", "//", "%"}, {"**"}};
  if (level == static_cast<int>(signs.size())) return unary(/*with_filters=*/true);
  Node left = chain(level + 1);
  while (word().kind == Word::Kind::sign && signs[static_cast<std::size_t>(level)].contains(word().text)) {
    const std::string sign = part_.words[at_++].text;
    Node right = chain(level + 1);
    left = std::make_unique<Binary>(sign, std::move(left), std::move(right));
  }
  return left;
}

Node Reader::unary(bool with_filters) {
  if (++depth_ > kDeepest) fail("more than 60 expressions in each other");
  Node node;
  if (skip_if("-")) {
    node = std::make_unique<Binary>("-", std::make_unique<Constant>(value(0)), unary(false));
  } else if (skip_if("+")) {
    node = unary(false);
  } else {
    node = postfix(primary());
  }
  if (with_filters) node = filters(std::move(node));
  --depth_;
  return node;
}

Node Reader::primary() {
  const Word one = word();
  ++at_;
  switch (one.kind) {
    case Word::Kind::name:
      if (one.text == "true" || one.text == "True") return std::make_unique<Constant>(value(true));
      if (one.text == "false" || one.text == "False") return std::make_unique<Constant>(value(false));
      if (one.text == "none" || one.text == "None") return std::make_unique<Constant>(value(nullptr));
      return std::make_unique<Variable>(one.text);
    case Word::Kind::string: {
      std::string text = one.text;
      while (word().kind == Word::Kind::string) text += part_.words[at_++].text;
      return std::make_unique<Constant>(value(std::move(text)));
    }
    case Word::Kind::integer:
      return std::make_unique<Constant>(value(static_cast<std::int64_t>(std::stoll(one.text))));
    case Word::Kind::real:
      return std::make_unique<Constant>(value(std::stod(one.text)));
    case Word::Kind::sign: {
      if (one.text == "(") {
        if (skip_if(")")) return std::make_unique<List>();
        Node node = expression();
        if (word().is(",")) {
          auto made = std::make_unique<List>();
          made->items.push_back(std::move(node));
          ++at_;
          for (Node& item : list(")")) made->items.push_back(std::move(item));
          return made;
        }
        expect(")");
        return node;
      }
      if (one.text == "[") {
        auto made = std::make_unique<List>();
        made->items = list("]");
        return made;
      }
      if (one.text == "{") return mapping();
      break;
    }
    case Word::Kind::end:
      break;
  }
  fail("expected an expression, found " +
       (one.kind == Word::Kind::end ? std::string("the end of the tag") : "'" + io::shortened(one.text, 40) + "'"));
}

std::vector<Node> Reader::list(std::string_view end) {
  std::vector<Node> items;
  while (!skip_if(end)) {
    items.push_back(expression());
    if (!word().is(end)) expect(",");
  }
  return items;
}

Node Reader::mapping() {
  auto made = std::make_unique<Mapping>();
  while (!skip_if("}")) {
    Node key = expression();
    expect(":");
    made->entries.emplace_back(std::move(key), expression());
    if (!word().is("}")) expect(",");
  }
  return made;
}

Node Reader::postfix(Node node) {
  for (int length = 0;; ++length) {
    if (length > 100) fail("more than 100 attributes and calls in a row");
    if (skip_if(".")) {
      if (word().kind == Word::Kind::integer) fail("an attribute that is a number, which is not supported");
      const std::string attribute = name();
      if (word().is("(")) {
        if (!is_method(attribute)) fail("the method ." + attribute + "(), which is not supported");
        auto made = std::make_unique<Call>();
        made->name = attribute;
        made->object = std::move(node);
        made->arguments = arguments();
        node = std::move(made);
      } else {
        auto made = std::make_unique<Item>();
        made->object = std::move(node);
        made->key = std::make_unique<Constant>(value(attribute));
        node = std::move(made);
      }
    } else if (skip_if("[")) {
      node = subscript(std::move(node));
    } else if (word().is("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

Node Reader::subscript(Node object) {
  Node begin;
  if (!word().is(":")) {
    begin = expression();
    if (skip_if("]")) {
      auto made = std::make_unique<Item>();
      made->object = std::move(object);
      made->key = std::move(begin);
      return made;
    }
  }
  auto made = std::make_unique<Slice>();
  made->object = std::move(object);
  made->begin = std::move(begin);
  expect(":");
  if (!word().is(":") && !word().is("]")) made->end = expression();
  if (skip_if(":") && !word().is("]")) made->by = expression();
  expect("]");
  return made;
}

Node Reader::call(Node callee) {
  const auto* function = dynamic_cast<const Variable*>(callee.get());
  if (function == nullptr || !is_function(function->name)) {
    fail("a call of " + (function == nullptr ? std::string("an expression") : function->name + "()") +
         ", which is not supported");
  }
  auto made = std::make_unique<Call>();
  made->name = function->name;
  made->arguments = arguments();
  return made;
}

Arguments Reader::arguments() {
  Arguments result;
  expect("(");
  while (!skip_if(")")) {
    if (word().kind == Word::Kind::name && word(1).is("=")) {
      std::string key = name();
      expect("=");
      result.named.emplace_back(std::move(key), expression());
    } else {
      if (!result.named.empty()) fail("an argument without a name behind one with a name");
      result.positional.push_back(expression());
    }
    if (!word().is(")")) expect(",");
  }
  return result;
}

Node Reader::filters(Node node) {
  for (int length = 0;; ++length) {
    if (length > 50) fail("more than 50 filters and tests in a row");
    if (skip_if("|")) {
      auto made = std::make_unique<Filter>();
      made->name = name();
      if (!is_filter(made->name)) fail("the filter '" + made->name + "', which is not supported");
      made->operand = std::move(node);
      if (word().is("(")) made->arguments = arguments();
      node = std::move(made);
    } else if (skip_if("is")) {
      node = test(std::move(node));
    } else {
      return node;
    }
  }
}

Node Reader::test(Node node) {
  auto made = std::make_unique<Test>();
  made->negated = skip_if("not");
  made->operand = std::move(node);
  // A sign of comparison may stand for its name.
  if (word().is("==") || word().is("!=")) {
    made->name = word().is("==") ? "eq" : "ne";
    ++at_;
  } else {
    made->name = name();
  }
  std::transform(made->name.begin(), made->name.end(), made->name.begin(),
                 [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  if (!is_test(made->name)) fail("the test '" + made->name + "', which is not supported");
  static const std::set<std::string> alone{"else", "or", "and", "is", "if", "in", "not"};
  const bool argument = word().kind == Word::Kind::string || word().kind == Word::Kind::integer ||
                        word().kind == Word::Kind::real || word().is("[") || word().is("{") ||
                        (word().kind == Word::Kind::name && !alone.contains(word().text));
  if (word().is("(")) {
    made->arguments = arguments();
  } else if (argument) {
    made->arguments.positional.push_back(postfix(primary()));
  }
  return made;
}

}  // namespace moelora::model::jinja
