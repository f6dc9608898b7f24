#include "moelora/eval/metrics.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace moelora::eval {
namespace {

double ratio_or_zero(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Sorted by label, as sklearn's unique labels are.
std::map<std::string, LabelCounts> count_labels(const std::vector<std::string>& truth,
                                                const std::vector<std::string>& answers) {
  TORCH_INTERNAL_ASSERT(truth.size() == answers.size());
  std::map<std::string, LabelCounts> counts;
  for (std::size_t i = 0; i < truth.size(); ++i) {
    ++counts[truth[i]].truth;
    ++counts[answers[i]].answered;
    if (truth[i] == answers[i]) ++counts[truth[i]].both;
  }
  return counts;
}

}  // namespace

double label_f1(const LabelCounts& counts) { return ratio_or_zero(2 * counts.both, counts.truth + counts.answered); }

F1 micro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers) {
  std::int64_t right = 0;
  for (const auto& [label, counts] : count_labels(truth, answers)) right += counts.both;
  const double accuracy = ratio_or_zero(right, static_cast<std::int64_t>(truth.size()));
  return {accuracy, accuracy, accuracy};
}

F1 macro_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers) {
  const auto labels = count_labels(truth, answers);
  if (labels.empty()) return {};
  F1 sum;
  for (const auto& [label, counts] : labels) {
    sum.f1 += label_f1(counts);
    sum.precision += ratio_or_zero(counts.both, counts.answered);
    sum.recall += ratio_or_zero(counts.both, counts.truth);
  }
  const auto count = static_cast<double>(labels.size());
  return {sum.f1 / count, sum.precision / count, sum.recall / count};
}

F1 weighted_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers) {
  F1 sum;
  for (const auto& [label, counts] : count_labels(truth, answers)) {
    const auto weight = static_cast<double>(counts.truth);
    sum.f1 += weight * label_f1(counts);
    sum.precision += weight * ratio_or_zero(counts.both, counts.answered);
    sum.recall += weight * ratio_or_zero(counts.both, counts.truth);
  }
  if (truth.empty()) return {};
  const auto count = static_cast<double>(truth.size());
  return {sum.f1 / count, sum.precision / count, sum.recall / count};
}

std::vector<LabelF1> label_f1(const std::vector<std::string>& truth, const std::vector<std::string>& answers) {
  std::vector<LabelF1> result;
  for (const auto& [label, counts] : count_labels(truth, answers)) {
    if (counts.truth > 0) result.push_back({label, label_f1(counts), counts.truth});
  }
  return result;
}

ItemCounts& ItemCounts::operator+=(const ItemCounts& other) {
  found += other.found;
  missed += other.missed;
  wrong += other.wrong;
  return *this;
}

ItemCounts count_items(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers) {
  const auto contains = [](const nlohmann::ordered_json& list, const nlohmann::ordered_json& item) {
    return std::find(list.begin(), list.end(), item) != list.end();
  };
  ItemCounts counts;
  for (const auto& item : truth) ++(contains(answers, item) ? counts.found : counts.missed);
  for (const auto& item : answers) counts.wrong += contains(truth, item) ? 0 : 1;
  return counts;
}

ItemCounts count_distinct_items(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers) {
  const auto distinct = [](const nlohmann::ordered_json& list) {
    nlohmann::ordered_json set = nlohmann::ordered_json::array();
    for (const auto& item : list) {
      if (std::find(set.begin(), set.end(), item) == set.end()) set.push_back(item);
    }
    return set;
  };
  return count_items(distinct(truth), distinct(answers));
}

F1 item_f1(const ItemCounts& counts) {
  F1 result;
  result.precision = ratio_or_zero(counts.found, counts.found + counts.wrong);
  result.recall = ratio_or_zero(counts.found, counts.found + counts.missed);
  const double sum = result.precision + result.recall;
  result.f1 = sum == 0 ? 0.0 : 2 * result.precision * result.recall / sum;
  return result;
}

F1 item_f1(const std::vector<nlohmann::ordered_json>& truth, const std::vector<nlohmann::ordered_json>& answers) {
  TORCH_INTERNAL_ASSERT(truth.size() == answers.size());
  ItemCounts sum;
  for (std::size_t i = 0; i < truth.size(); ++i) sum += count_items(truth[i], answers[i]);
  return item_f1(sum);
}

}  // namespace moelora::eval
