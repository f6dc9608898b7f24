#pragma once
// What a target names: a linear by the end of its name, or by a regular expression.

#include <torch/nn/module.h>

#include <regex>
#include <string>

namespace moelora {

/// An expression for names. Patterns come from files, so matching takes polynomial time, and the length is bounded.
/// std::regex_error: not ECMAScript, longer than 1000 characters, or with back-references.
std::regex name_expression(const std::string& text);

/// A suffix at a name-component boundary, or a regular expression (ECMAScript) that matches the whole name.
class TargetPattern {
 public:
  explicit TargetPattern(const std::string& text);  ///< Error: neither a name nor a valid expression.
  bool matches(const std::string& name) const;

 private:
  std::string text_;
  std::regex expression_;
};

/// Names of the linears of `base` that take an adapter, in the order of the module tree.
std::vector<std::string> adaptable_linears(torch::nn::Module& base);

/// The names without repetition, numbers in them as `*` (which also is an expression that matches them), the first few,
/// or what to do if there is none.
std::string shown_linears(const std::vector<std::string>& linears);

}  // namespace moelora
