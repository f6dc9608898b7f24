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

struct LabelF1 {
  std::string label;
  double f1 = 0;
  std::int64_t support = 0;  ///< true samples of this label
};

/// One label per sample; `truth` and `answers` have the same length.
F1 micro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);
/// Mean over the labels that occur in truth or answers.
F1 macro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);
/// Each label that occurs in truth, sorted.
std::vector<LabelF1> label_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers);

/// One array of items per sample. Every true item that is among the sample's answers is found; every answer that is not
/// among the true items is wrong. Items are counted as often as they are listed.
F1 item_f1(const std::vector<nlohmann::ordered_json>& truth, const std::vector<nlohmann::ordered_json>& answers);

}  // namespace moelora::eval
