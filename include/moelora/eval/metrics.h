#pragma once
// F1 over labels and over lists of items, as MOELoRA-peft's evaluation computes them. Where nothing was predicted or
// nothing was to be found, a ratio without a denominator is 0 (the reference divides by zero there and stops).

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moelora::eval {

struct F1 {
  double f1 = 0;
  double precision = 0;
  double recall = 0;
};

/// Samples of one label.
struct LabelCounts {
  std::int64_t both = 0;  ///< in truth and answered
  std::int64_t truth = 0;
  std::int64_t answered = 0;
};
double label_f1(const LabelCounts& counts);

struct LabelF1 {
  std::string label;
  double f1 = 0;
  std::int64_t support = 0;  ///< true samples of this label
};

/// One label per sample; `truth` and `answers` have the same length.
F1 micro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);
/// Mean over the labels that occur in truth or answers.
F1 macro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);
/// Mean over the labels that occur in truth, each as often as it occurs there.
F1 weighted_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);
/// Each label that occurs in truth, sorted.
std::vector<LabelF1> label_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);

/// Items of one or several samples; they add up.
struct ItemCounts {
  std::int64_t found = 0;   ///< true items that are among the answers
  std::int64_t missed = 0;  ///< true items that are not
  std::int64_t wrong = 0;   ///< answers that are not among the true items

  ItemCounts& operator+=(const ItemCounts& other);
};
/// One sample's arrays of items. Items are counted as often as they are listed.
ItemCounts count_items(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers);
/// The same with both sides as sets.
ItemCounts count_distinct_items(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers);
F1 item_f1(const ItemCounts& counts);
/// One array of items per sample; all samples' counts together.
F1 item_f1(const std::vector<nlohmann::ordered_json>& truth, const std::vector<nlohmann::ordered_json>& answers);

}  // namespace moelora::eval
