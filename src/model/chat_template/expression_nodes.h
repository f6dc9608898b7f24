#pragma once
// The kinds of expressions of a Jinja program.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/nodes.h"
#include "moelora/io/error.h"

namespace moelora::model::jinja {

inline Given evaluated(const Arguments& arguments, Run& run) {
  Given given;
  for (const Node& one : arguments.positional) given.positional.push_back(one->run(run));
  for (const auto& [name, one] : arguments.named) given.named[name] = one->run(run);
  return given;
}

struct Constant : Expression {
  Value constant;
  explicit Constant(Value one) : constant(std::move(one)) {}
  Value run(Run&) const override { return constant; }
};

struct Variable : Expression {
  std::string name;
  explicit Variable(std::string one) : name(std::move(one)) {}
  Value run(Run& run) const override {
    run.step();
    return run.find(name);
  }
};

struct Binary : Expression {
  std::string sign;
  Node left, right;
  Binary(std::string one, Node a, Node b) : sign(std::move(one)), left(std::move(a)), right(std::move(b)) {}
  Value run(Run& run) const override {
    const Value a = left->run(run);
    if (sign == "and" || sign == "or") return is_true(a) == (sign == "and") ? right->run(run) : a;
    const Value b = right->run(run);
    if (sign == "in") return value(contains(b, a, run));
    return run_operator(sign, a, b, run);
  }
};

/// a < b < c: each with the next, as long as they hold.
struct Comparison : Expression {
  Node first;
  std::vector<std::pair<std::string, Node>> rest;
  Value run(Run& run) const override {
    Value left = first->run(run), result;
    for (const auto& [sign, node] : rest) {
      Value right = node->run(run);
      result = sign == "in"       ? value(contains(right, left, run))
               : sign == "not in" ? value(!contains(right, left, run))
                                  : run_operator(sign, left, right, run);
      if (!is_true(result)) break;
      left = std::move(right);
    }
    return result;
  }
};

struct Not : Expression {
  Node operand;
  explicit Not(Node one) : operand(std::move(one)) {}
  Value run(Run& run) const override { return value(!is_true(operand->run(run))); }
};

struct Condition : Expression {
  Node condition, then, otherwise;  // otherwise may be absent
  Value run(Run& run) const override {
    if (is_true(condition->run(run))) return then->run(run);
    return otherwise ? otherwise->run(run) : nullptr;
  }
};

struct List : Expression {
  std::vector<Node> items;
  Value run(Run& run) const override {
    Json list = Json::array();
    for (const Node& item : items) {
      const Value one = item->run(run);
      if (one == nullptr) run.fail("an undefined value in a list");
      run.spend(64 + (one->is_structured() ? 256 : text_of(one).size()));
      list.push_back(*one);
    }
    return value(std::move(list));
  }
};

struct Mapping : Expression {
  std::vector<std::pair<Node, Node>> entries;
  Value run(Run& run) const override {
    Json made = Json::object();
    for (const auto& [key, item] : entries) {
      const Value one = item->run(run);
      run.spend(64 + (one == nullptr || one->is_structured() ? 256 : text_of(one).size()));
      made[text_of(key->run(run))] = one == nullptr ? Json() : *one;
    }
    return value(std::move(made));
  }
};

struct Item : Expression {
  Node object, key;
  Value run(Run& run) const override {
    const Value whole = object->run(run);
    return item_of(whole, key->run(run), run);
  }
};

struct Slice : Expression {
  Node object, begin, end, by;
  Value run(Run& run) const override {
    const Value whole = object->run(run);
    if (whole == nullptr || !(whole->is_array() || whole->is_string())) {
      run.fail(detail::concat("a slice of ", type_of(whole)));
    }
    const std::vector<Value> items = items_of(whole, run);
    const auto size = static_cast<std::int64_t>(items.size());
    const auto number = [&](const Node& node, std::int64_t otherwise) {
      const Value given = node ? node->run(run) : nullptr;
      if (given == nullptr || given->is_null()) return otherwise;
      if (!given->is_number_integer()) run.fail(detail::concat("a slice at ", type_of(given)));
      return std::clamp<std::int64_t>(given->get<std::int64_t>(), -(1LL << 40), 1LL << 40);
    };
    const std::int64_t step = number(by, 1);
    if (step == 0) run.fail("a slice in steps of 0");
    const auto place = [&](std::int64_t at) {
      at += at < 0 ? size : 0;
      return std::clamp<std::int64_t>(at, step < 0 ? -1 : 0, step < 0 ? size - 1 : size);
    };
    const std::int64_t first = begin ? place(number(begin, step < 0 ? size - 1 : 0)) : step < 0 ? size - 1 : 0;
    const std::int64_t last = end ? place(number(end, size)) : step < 0 ? -1 : size;
    Json list = Json::array();
    std::string text;
    for (std::int64_t i = first; step > 0 ? i < last : i > last; i += step) {
      const Json& item = *items[static_cast<std::size_t>(i)];
      run.spend(item.is_string() ? 16 + item.get_ref<const std::string&>().size() : 256);
      whole->is_string() ? void(text += item.get_ref<const std::string&>()) : list.push_back(item);
    }
    return whole->is_string() ? value(std::move(text)) : value(std::move(list));
  }
};

struct Filter : Expression {
  std::string name;
  Node operand;
  Arguments arguments;
  Value run(Run& run) const override {
    const Value one = operand->run(run);
    return run_filter(name, one, evaluated(arguments, run), run);
  }
};

struct Test : Expression {
  std::string name;
  bool negated = false;
  Node operand;
  Arguments arguments;
  Value run(Run& run) const override {
    const Value one = operand->run(run);
    return value(run_test(name, one, evaluated(arguments, run), run) != negated);
  }
};

struct Call : Expression {
  std::string name;
  Node object;  // of a method
  Arguments arguments;
  Value run(Run& run) const override {
    const Value one = object ? object->run(run) : nullptr;
    const Given given = evaluated(arguments, run);
    return object ? run_method(name, one, given, run) : run_function(name, given, run);
  }
};

}  // namespace moelora::model::jinja
