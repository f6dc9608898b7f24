#include "moelora/eval/scorer.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "eval/python_text.h"
#include "eval/samples.h"
#include "moelora/eval/answers.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Json = nlohmann::ordered_json;

struct ScorerName {
  std::string_view name;
  std::optional<Scorer> scorer;  // none: planned
};
constexpr std::array<ScorerName, 3> kScorerNames{
    {{"moelora", Scorer::moelora}, {"promptcblue", std::nullopt}, {"paper", std::nullopt}}};

bool says_something(const Json& part) {
  if (part.is_string()) return !part.get_ref<const std::string&>().empty();
  return std::any_of(part.begin(), part.end(), says_something);
}

// "No such entity in this sentence" reads as an empty list, and so does garbage: references tell which is which.
std::int64_t count_unreadable_lists(const Samples& samples, const ParsedSamples& parsed) {
  std::set<std::string_view> ways_to_say_none;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    if (!says_something(parsed.truth[i])) ways_to_say_none.insert(text::strip(samples.references[i]->target));
  }
  std::int64_t count = 0;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    if (says_something(parsed.answers[i])) continue;
    count += ways_to_say_none.count(text::strip(samples.predictions[i]->target)) == 0 ? 1 : 0;
  }
  return count;
}

void score_labels(const Samples& samples, const ParsedSamples& parsed, Metric metric, TaskScore& result) {
  const LabelColumns labels = labels_of(samples, parsed);
  const F1 f1 =
      metric == Metric::macro_f1 ? macro_f1(labels.truth, labels.answers) : micro_f1(labels.truth, labels.answers);
  result.score = f1.f1;
  result.precision = f1.precision;
  result.recall = f1.recall;
  result.labels = label_f1(labels.truth, labels.answers);
  const std::set<std::string> true_labels(labels.truth.begin(), labels.truth.end());
  for (std::size_t i = 0; i < samples.count(); ++i) {
    const auto& choices = samples.choices(i);
    const bool offered = std::find(choices.begin(), choices.end(), labels.answers[i]) != choices.end();
    if (!offered && true_labels.count(labels.answers[i]) == 0) ++result.unparsable;
  }
}

void score_items(const Samples& samples, const ParsedSamples& parsed, TaskScore& result) {
  const F1 f1 = item_f1(parsed.truth, parsed.answers);
  result.score = f1.f1;
  result.precision = f1.precision;
  result.recall = f1.recall;
  result.unparsable = count_unreadable_lists(samples, parsed);
}

void score_texts(const Samples& samples, const ParsedSamples& parsed, Metric metric, const Segmenter& segmenter,
                 TaskScore& result) {
  if (metric == Metric::section_rouge_l) result.unparsable = count_unreadable_lists(samples, parsed);
  const double weight = 1.0 / static_cast<double>(samples.count());
  for (std::size_t i = 0; i < samples.count(); ++i) {
    const TextScore each = metric == Metric::rouge_l ? text_score(parsed.truth[i], parsed.answers[i], segmenter)
                                                     : section_score(parsed.truth[i], parsed.answers[i], segmenter);
    result.score += each.rouge.f * weight;
    result.precision = *result.precision + each.rouge.precision * weight;
    result.recall = *result.recall + each.rouge.recall * weight;
    if (!each.is_readable) ++result.unparsable;
  }
}

TaskScore score_task(const Samples& samples, const Segmenter& segmenter) {
  const Metric metric = metric_of(samples);
  const ParsedSamples parsed = parse_samples(samples);
  TaskScore result;
  result.task = samples.task;
  result.metric = metric_name(metric);
  result.samples = static_cast<std::int64_t>(samples.count());
  result.segmented = metric == Metric::rouge_l || metric == Metric::section_rouge_l;
  result.precision = 0.0;
  result.recall = 0.0;
  switch (metric) {
    case Metric::micro_f1:
    case Metric::macro_f1:
      score_labels(samples, parsed, metric, result);
      break;
    case Metric::item_f1:
      score_items(samples, parsed, result);
      break;
    case Metric::rouge_l:
    case Metric::section_rouge_l:
      score_texts(samples, parsed, metric, segmenter, result);
      break;
  }
  return result;
}

}  // namespace

Scorer scorer_from_name(std::string_view name) {
  std::string available;
  for (const ScorerName& known : kScorerNames) {
    if (known.scorer) available.append(available.empty() ? "" : ", ").append(known.name);
  }
  for (const ScorerName& known : kScorerNames) {
    if (known.name != name) continue;
    MOELORA_CHECK(known.scorer, "the scorer `", name, "` is not available yet in this version: use ", available);
    return *known.scorer;
  }
  throw Error("expected a scorer among " + available + ", found `" + std::string(name) + "`");
}

std::string_view scorer_name(Scorer scorer) {
  return std::find_if(kScorerNames.begin(), kScorerNames.end(),
                      [scorer](const ScorerName& known) { return known.scorer == scorer; })
      ->name;
}

const TaskScore* Scores::find(std::string_view task) const {
  const auto found = std::find_if(tasks.begin(), tasks.end(), [task](const TaskScore& t) { return t.task == task; });
  return found == tasks.end() ? nullptr : &*found;
}

Scores score(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions, Scorer scorer,
             const Segmenter& segmenter) {
  MOELORA_CHECK(!references.empty(), "expected records to score, found none: check the data file");
  const std::vector<Samples> by_task = samples_by_task(references, predictions);
  Scores scores;
  scores.scorer = scorer_name(scorer);
  scores.segmentation = segmenter.name();
  scores.left_out = without_target(references, "the data");
  for (const Samples& samples : by_task) {
    scores.tasks.push_back(score_task(samples, segmenter));
    scores.average += scores.tasks.back().score / static_cast<double>(by_task.size());
    scores.samples += scores.tasks.back().samples;
    scores.unparsable += scores.tasks.back().unparsable;
  }
  return scores;
}

std::vector<data::Record> majority_predictions(const std::vector<data::Record>& train,
                                               const std::vector<data::Record>& dev) {
  struct Majority {
    std::map<std::string, std::int64_t> counts;
    std::int64_t most = 0;
    std::string answer;
  };
  std::map<std::string, Majority> by_task;
  without_target(train, "the training records");  // an error if there is no other
  for (const data::Record& record : train) {
    if (!has_target(record)) continue;
    const std::int64_t count = ++by_task[record.task].counts[record.target];
    by_task[record.task].most = std::max(by_task[record.task].most, count);
  }
  for (const data::Record& record : train) {
    Majority& majority = by_task[record.task];
    if (has_target(record) && majority.answer.empty() && majority.counts[record.target] == majority.most)
      majority.answer = record.target;
  }
  std::vector<data::Record> predictions = dev;
  for (data::Record& record : predictions) record.target = by_task[record.task].answer;
  return predictions;
}

Scores majority_scores(const std::vector<data::Record>& train, const std::vector<data::Record>& dev, Scorer scorer,
                       const Segmenter& segmenter) {
  return score(dev, majority_predictions(train, dev), scorer, segmenter);
}

}  // namespace moelora::eval
