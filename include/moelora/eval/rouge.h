#pragma once
// Rouge as the Python package `rouge` 1.0.1 computes it, which the reference's scores rest on. It differs from the
// textbook: a full stop `.` ends a sentence; words and n-grams are sets, so repeated ones count once; Rouge-L takes the
// union of the longest common subsequences of all sentence pairs; f has 1e-8 in its denominator (identical texts:
// 0.999999995).

#include <string>
#include <string_view>
#include <vector>

namespace moelora::eval {

struct RougeScore {
  double recall = 0;
  double precision = 0;
  double f = 0;
};

struct RougeScores {
  RougeScore rouge_1;
  RougeScore rouge_2;
  RougeScore rouge_l;
};

/// Longest text in words that Rouge-L compares; the time is the product of the two lengths.
inline constexpr std::size_t kMaxRougeWords = 20'000;

/// Texts are words separated by white space. A text without any sentence (empty, or only full stops) scores 0 (the
/// Python package raises an exception). Error: a text of more than kMaxRougeWords words.
RougeScores rouge(std::string_view answer, std::string_view reference);
RougeScore rouge_l(std::string_view answer, std::string_view reference);  ///< The same, Rouge-L alone.

/// Rouge as the Python package `rouge_chinese` 1.0.3 computes it, which the benchmark's own evaluation uses: a sentence
/// ends after `。`, `！`, `？`, `?`, six full stops or two ellipses; Rouge-L compares whole texts, and repeated words
/// count repeatedly. Texts, errors and texts without words as for rouge().
RougeScores rouge_chinese(std::string_view answer, std::string_view reference);

/// Tokens joined by spaces: the form that rouge() takes.
std::string join_tokens(const std::vector<std::string>& tokens);

}  // namespace moelora::eval
