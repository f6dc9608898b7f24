#include "moelora/eval/scorer.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "eval/samples.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/python_text.h"
#include "moelora/io/error.h"
#include "moelora/io/saved_names.h"

namespace moelora::eval {
namespace {

using Json = nlohmann::ordered_json;

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

F1 f1_of_labels(Metric metric, const LabelColumns& labels) {
  if (metric == Metric::macro_f1) return macro_f1(labels.truth, labels.answers);
  if (metric == Metric::weighted_f1) return weighted_f1(labels.truth, labels.answers);
  return micro_f1(labels.truth, labels.answers);
}

bool is_among(const std::vector<std::string>& choices, std::string_view answer) {
  return std::any_of(choices.begin(), choices.end(), [&](const std::string& c) { return text::strip(c) == answer; });
}

std::int64_t count_labels_not_offered(const Samples& samples, const ParsedSamples& parsed, const LabelColumns& labels) {
  const std::set<std::string> true_labels(labels.truth.begin(), labels.truth.end());
  std::int64_t count = 0;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    const std::string& answer = labels.answers[i];
    if (samples.format == AnswerFormat::plain && !samples.choices(i).empty()) {
      count += is_among(samples.choices(i), answer) || answer == labels.truth[i] ? 0 : 1;
      continue;
    }
    const auto& choices = samples.choices(i);
    const bool offered = std::find(choices.begin(), choices.end(), answer) != choices.end();
    const bool replaced = says_something(answer) && !says_something(parsed.answers[i]);
    count += replaced || (!offered && true_labels.count(answer) == 0) ? 1 : 0;
  }
  return count;
}

void score_labels(const Samples& samples, const ParsedSamples& parsed, TaskScore& result) {
  const LabelColumns labels = labels_of(samples, parsed);
  const F1 f1 = f1_of_labels(samples.metric, labels);
  result.score = f1.f1;
  if (samples.metric != Metric::accuracy && samples.metric != Metric::choice_accuracy) {
    result.precision = f1.precision;
    result.recall = f1.recall;
  }
  result.labels = label_f1(labels.truth, labels.answers);
  result.unparsable = count_labels_not_offered(samples, parsed, labels);
}

void score_matches(const Samples& samples, const ParsedSamples& parsed, TaskScore& result) {
  const LabelColumns labels = labels_of(samples, parsed);
  result.score = micro_f1(labels.truth, labels.answers).f1;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    const std::string& answer = labels.answers[i];
    const bool offered = samples.choices(i).empty() ? !answer.empty() : is_among(samples.choices(i), answer);
    result.unparsable += offered || answer == labels.truth[i] ? 0 : 1;
  }
}

void score_items(const Samples& samples, const ParsedSamples& parsed, TaskScore& result) {
  ItemCounts counts;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    counts += item_counts(samples.metric, parsed.truth[i], parsed.answers[i]);
  }
  const F1 f1 = item_f1(counts);
  result.score = f1.f1;
  result.precision = f1.precision;
  result.recall = f1.recall;
  result.unparsable = count_unreadable_lists(samples, parsed);
}

void score_texts(const Samples& samples, const ParsedSamples& parsed, const Segmenter& segmenter, TaskScore& result) {
  const bool by_section =
      samples.metric == Metric::section_rouge_l || samples.metric == Metric::benchmark_section_rouge_l;
  if (by_section) result.unparsable = count_unreadable_lists(samples, parsed);
  std::vector<TextScore> each;
  double total = 0;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    each.push_back(text_score(samples.metric, parsed.truth[i], parsed.answers[i], segmenter));
    total += each.back().weight;
    if (!each.back().is_readable) ++result.unparsable;
  }
  const double weight = total == 0 ? 0.0 : 1.0 / total;
  RougeScores mean;
  for (const TextScore& score : each) {
    mean.rouge_1.f += score.sum.rouge_1.f * weight;
    mean.rouge_2.f += score.sum.rouge_2.f * weight;
    mean.rouge_l.f += score.sum.rouge_l.f * weight;
    mean.rouge_l.precision += score.sum.rouge_l.precision * weight;
    mean.rouge_l.recall += score.sum.rouge_l.recall * weight;
  }
  result.score = mean.rouge_l.f;
  result.precision = mean.rouge_l.precision;
  result.recall = mean.rouge_l.recall;
  if (!result.segmented) {
    result.rouge_1 = mean.rouge_1.f;
    result.rouge_2 = mean.rouge_2.f;
  }
}

TaskScore score_task(const Samples& samples, const Segmenter& segmenter) {
  const ParsedSamples parsed = parse_samples(samples);
  TaskScore result;
  result.task = samples.task;
  result.metric = metric_name(samples.metric);
  result.samples = static_cast<std::int64_t>(samples.count());
  result.segmented = depends_on_segmentation(samples.metric);
  switch (samples.metric) {
    case Metric::micro_f1:
    case Metric::macro_f1:
    case Metric::weighted_f1:
    case Metric::accuracy:
    case Metric::choice_accuracy:
      score_labels(samples, parsed, result);
      break;
    case Metric::exact_match:
      score_matches(samples, parsed, result);
      break;
    case Metric::item_f1:
    case Metric::set_f1:
      score_items(samples, parsed, result);
      break;
    case Metric::rouge_l:
    case Metric::section_rouge_l:
    case Metric::benchmark_rouge_l:
    case Metric::benchmark_section_rouge_l:
      score_texts(samples, parsed, segmenter, result);
      break;
  }
  return result;
}

}  // namespace

std::string segmentation_of(const Scorer& scorer, const Segmenter& segmenter) {
  return scorer.kind == Scorer::Kind::promptcblue ? "BERT's basic tokenizer" : segmenter.name();
}

bool depends_on_segmentation(Metric metric) { return metric == Metric::rouge_l || metric == Metric::section_rouge_l; }

const TaskScore* Scores::find(std::string_view task) const {
  const auto found = std::find_if(tasks.begin(), tasks.end(), [task](const TaskScore& t) { return t.task == task; });
  return found == tasks.end() ? nullptr : &*found;
}

Scores score(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
             const Scorer& scorer, const Segmenter& segmenter) {
  MOELORA_CHECK(!references.empty(), "expected records to score, found none: check the data file");
  const std::vector<Samples> by_task = samples_by_task(references, predictions, scorer);
  Scores scores;
  scores.scorer = scorer.name;
  scores.segmentation = segmentation_of(scorer, segmenter);
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
  std::set<std::string> unknown;
  for (data::Record& record : predictions) {
    const bool is_scored = has_target(record);
    record.target = by_task[record.task].answer;
    if (is_scored && record.target.empty()) unknown.insert("`" + record.task + "`");
  }
  MOELORA_CHECK(unknown.empty(),
                "expected answers to each task in the records that majority answers are taken from, "
                "found none to ",
                io::in_a_row({unknown.begin(), unknown.end()}),
                ": take the records that training had, under the same tasks");
  return predictions;
}

Scores majority_scores(const std::vector<data::Record>& train, const std::vector<data::Record>& dev,
                       const Scorer& scorer, const Segmenter& segmenter) {
  return score(dev, majority_predictions(train, dev), scorer, segmenter);
}

}  // namespace moelora::eval
