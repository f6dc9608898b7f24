#pragma once
// A Jinja program as a tree, and what it runs in.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/chat_template/value.h"

namespace moelora::model::jinja {

/// Variables, the text so far, and limits. Error, naming the template and the line in work: a limit is passed.
class Run {
 public:
  Run(const std::string& where, std::size_t most_bytes) : where_(where), bytes_left_(most_bytes) {}

  std::string output;
  std::size_t line = 1;                                 ///< of the statement in work
  std::vector<std::map<std::string, Value>> scopes{1};  ///< the last is the innermost

  [[noreturn]] void fail(const std::string& what) const;
  Value find(const std::string& name) const;  ///< Undefined if there is none.
  /// A new value of so many bytes is about to be made.
  void spend(std::size_t bytes);
  void step() { spend(64); }
  Value text(std::string text);  ///< A new string.
  /// Adds to the output.
  void write(const std::string& text);

 private:
  const std::string& where_;
  std::size_t bytes_left_;
};

struct Expression {
  virtual ~Expression() = default;
  virtual Value run(Run& run) const = 0;
};
using Node = std::unique_ptr<Expression>;

struct Arguments {
  std::vector<Node> positional;
  std::vector<std::pair<std::string, Node>> named;
};
/// The same, evaluated.
struct Given {
  std::vector<Value> positional;
  std::map<std::string, Value> named;
  /// The argument at a position or with a name; nullptr: not given.
  Value at(std::size_t position, const std::string& name = {}) const;
};

/// How a loop or a block ended.
enum class Flow { on, next, stop };
struct Statement {
  std::size_t line = 1;
  virtual ~Statement() = default;
  virtual Flow run(Run& run) const = 0;
};
using Block = std::vector<std::unique_ptr<Statement>>;
Flow run_all(const Block& block, Run& run);

/// Filters (value | name) and tests (value is name); the names that there are, for checking before anything runs.
bool is_filter(const std::string& name);
Value run_filter(const std::string& name, const Value& value, const Given& given, Run& run);
bool is_test(const std::string& name);
bool run_test(const std::string& name, const Value& value, const Given& given, Run& run);
/// Methods of strings and mappings, and functions.
bool is_method(const std::string& name);
Value run_method(const std::string& name, const Value& object, const Given& given, Run& run);
bool is_function(const std::string& name);
Value run_function(const std::string& name, const Given& given, Run& run);

/// Operators, with Python's meaning.
Value run_operator(const std::string& sign, const Value& left, const Value& right, Run& run);
bool equal(const Value& left, const Value& right);
bool contains(const Value& whole, const Value& item, Run& run);
/// object[key] and object.key; undefined if there is no such item.
Value item_of(const Value& object, const Value& key, Run& run);
/// The items of a list, the keys of a mapping, the characters of a string.
std::vector<Value> items_of(const Value& value, Run& run);

/// Error naming `where` and the line: no Jinja, or something that is not supported.
Block parse(std::string_view source, const std::string& where);

}  // namespace moelora::model::jinja
