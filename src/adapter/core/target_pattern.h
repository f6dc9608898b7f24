#pragma once
// The names of linears that a configuration asks for. They come from files, so a match must end soon whatever they say.

#include <algorithm>
#include <optional>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/io/error.h"

namespace moelora {

/// What is wrong with `text` as a regular expression (empty: nothing), checked before the standard library sees it:
/// its parser recurses with every bracket, and its states grow with the product of the counted repetitions.
inline std::string expression_problem(std::string_view text) {
  constexpr std::size_t kLongest = 2000;
  constexpr int kDeepest = 50;
  constexpr std::int64_t kMostRepetitions = 1000;
  if (text.size() > kLongest) {
    return "it has more than " + std::to_string(kLongest) + " bytes";
  }
  int depth = 0;
  std::int64_t repetitions = 1;
  for (std::size_t i = 0; i < text.size(); ++i) {
    depth += text[i] == '(' ? 1 : text[i] == ')' ? -1 : 0;
    if (depth > kDeepest) {
      return "brackets nest deeper than " + std::to_string(kDeepest);
    }
    if (text[i] != '{') {
      continue;
    }
    std::int64_t most = 1;  // {3}, {3,} or {3,5}
    std::int64_t number = 0;
    for (const char c : text.substr(i + 1)) {
      if (c != ',' && (c < '0' || c > '9')) {
        break;
      }
      number = c == ',' ? 0 : std::min(number * 10 + (c - '0'), kMostRepetitions + 1);
      most = std::max(most, number);
    }
    repetitions *= most;
    if (repetitions > kMostRepetitions) {
      return "it repeats more than " + std::to_string(kMostRepetitions) + " times";
    }
  }
  return {};
}

/// The expression, or nothing and what is wrong with it in `problem`.
inline std::optional<std::regex> compile_expression(const std::string& text, std::string& problem) {
  problem = expression_problem(text);
  if (!problem.empty()) {
    return std::nullopt;
  }
  auto options = std::regex::ECMAScript;
#ifdef __GLIBCXX__
  // Otherwise it tries alternatives one after the other, in a time that doubles with each. Refuses back-references.
  options |= std::regex_constants::__polynomial;
#endif
  try {
    return std::regex(text, options);
  } catch (const std::regex_error& error) {
    problem = error.what();
    return std::nullopt;
  }
}

/// A target is a suffix at a name-component boundary, or a regular expression that matches the whole name.
class TargetPattern {
 public:
  explicit TargetPattern(const std::string& text) : text_(text) {
    std::string problem;
    expression_ = compile_expression(text, problem);
    if (!expression_) {
      throw Error("target '" + text.substr(0, 200) + "' is neither a name nor a valid regular expression: " + problem);
    }
  }
  bool matches(const std::string& name) const {
    return name == text_ || name.ends_with("." + text_) || std::regex_match(name, *expression_);
  }

 private:
  std::string text_;
  std::optional<std::regex> expression_;
};

}  // namespace moelora
