#include "moelora/eval/scorer.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "eval/python_text.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/rouge.h"
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

// One task's samples, references and answers side by side.
struct Samples {
  std::string task;
  std::vector<const data::Record*> references;
  std::vector<const data::Record*> predictions;

  std::size_t count() const { return references.size(); }
  // Files of bare predictions may leave out what the reference says anyway.
  const std::vector<std::string>& choices(std::size_t i) const {
    return predictions[i]->answer_choices.empty() ? references[i]->answer_choices : predictions[i]->answer_choices;
  }
};

struct ParsedSamples {
  std::vector<Json> truth;
  std::vector<Json> answers;
};

ParsedSamples parse_samples(const Samples& samples) {
  ParsedSamples parsed;
  const bool known = find_task_rule(samples.task) != nullptr;
  const auto parse = [&](const std::string& answer, const std::vector<std::string>& choices) -> Json {
    return known ? parse_answer(samples.task, answer, choices) : Json(std::string(text::strip(answer)));
  };
  for (std::size_t i = 0; i < samples.count(); ++i) {
    parsed.truth.push_back(parse(samples.references[i]->target, samples.references[i]->answer_choices));
    parsed.answers.push_back(parse(samples.predictions[i]->target, samples.choices(i)));
  }
  return parsed;
}

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
  std::vector<std::string> truth;
  std::vector<std::string> answers;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    truth.push_back(parsed.truth[i]);
    answers.push_back(parsed.answers[i]);
    // The data set's own spelling mixes a half-width and a full-width bracket.
    if (samples.task == "CHIP-CTC") answers.back() = text::replace(answers.back(), "(医生检测)", "(医生检测）");
  }
  const F1 f1 = metric == Metric::macro_f1 ? macro_f1(truth, answers) : micro_f1(truth, answers);
  result.score = f1.f1;
  result.precision = f1.precision;
  result.recall = f1.recall;
  result.labels = label_f1(truth, answers);
  const std::set<std::string> true_labels(truth.begin(), truth.end());
  for (std::size_t i = 0; i < samples.count(); ++i) {
    const auto& choices = samples.choices(i);
    const bool offered = std::find(choices.begin(), choices.end(), answers[i]) != choices.end();
    if (!offered && true_labels.count(answers[i]) == 0) ++result.unparsable;
  }
}

void score_items(const Samples& samples, const ParsedSamples& parsed, TaskScore& result) {
  const F1 f1 = item_f1(parsed.truth, parsed.answers);
  result.score = f1.f1;
  result.precision = f1.precision;
  result.recall = f1.recall;
  result.unparsable = count_unreadable_lists(samples, parsed);
}

struct TextPair {
  std::string answer;
  std::string truth;
};

// An overlong text scores 0; true when both could be compared.
bool add_rouge(const TextPair& pair, const Segmenter& segmenter, std::string_view prefix, double weight,
               TaskScore& result) {
  const auto form = [&](const std::string& text) { return std::string(prefix) + join_tokens(segmenter.cut(text)); };
  if (text::words(pair.answer).empty() && prefix.empty()) return false;
  const std::string answer = form(pair.answer);
  const std::string truth = form(pair.truth);
  if (text::words(answer).size() > kMaxRougeWords || text::words(truth).size() > kMaxRougeWords) return false;
  const RougeScore each = rouge_l(answer, truth);
  result.score += each.f * weight;
  result.precision = *result.precision + each.precision * weight;
  result.recall = *result.recall + each.recall * weight;
  return true;
}

void score_texts(const ParsedSamples& parsed, const Segmenter& segmenter, TaskScore& result) {
  const double weight = 1.0 / static_cast<double>(parsed.truth.size());
  for (std::size_t i = 0; i < parsed.truth.size(); ++i) {
    const auto& answer = parsed.answers[i].get_ref<const std::string&>();
    // The reference compares "-" in the place of an empty answer.
    const bool compared = add_rouge({answer.empty() ? "-" : answer, parsed.truth[i]}, segmenter, "", weight, result);
    if (answer.empty() || !compared) ++result.unparsable;
  }
}

void score_sections(const Samples& samples, const ParsedSamples& parsed, const Segmenter& segmenter,
                    TaskScore& result) {
  result.unparsable = count_unreadable_lists(samples, parsed);
  for (std::size_t i = 0; i < parsed.truth.size(); ++i) {
    const Json& answer = parsed.answers[i];
    const double weight = 1.0 / static_cast<double>(parsed.truth.size()) / static_cast<double>(parsed.truth[i].size());
    bool overlong = false;
    for (const auto& [section, truth] : parsed.truth[i].items()) {
      if (!answer.contains(section)) continue;
      overlong |= !add_rouge({answer[section], truth}, segmenter, "-", weight, result);
    }
    if (overlong) ++result.unparsable;
  }
}

Metric metric_of(const Samples& samples) {
  if (const TaskRule* rule = find_task_rule(samples.task)) return rule->metric;
  const bool labels = std::all_of(samples.references.begin(), samples.references.end(), [](const data::Record* record) {
    if (record->task_type == "cls" || record->task_type == "matching" || record->task_type == "nli") return true;
    const auto& choices = record->answer_choices;
    return std::find(choices.begin(), choices.end(), text::strip(record->target)) != choices.end();
  });
  return labels ? Metric::micro_f1 : Metric::rouge_l;
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
      score_texts(parsed, segmenter, result);
      break;
    case Metric::section_rouge_l:
      score_sections(samples, parsed, segmenter, result);
      break;
  }
  return result;
}

// PromptCBLUE's order first, so that tables of different data files read alike.
std::size_t rank_of_task(const std::string& task) {
  const TaskRule* rule = find_task_rule(task);
  return rule == nullptr ? task_rules().size() : static_cast<std::size_t>(rule - task_rules().data());
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
  const std::vector<std::size_t> matches = match_predictions(references, predictions);
  std::vector<Samples> by_task;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < references.size(); ++i) {
    const auto [place, fresh] = index.try_emplace(references[i].task, by_task.size());
    if (fresh) by_task.push_back({references[i].task, {}, {}});
    by_task[place->second].references.push_back(&references[i]);
    by_task[place->second].predictions.push_back(&predictions[matches[i]]);
  }
  std::stable_sort(by_task.begin(), by_task.end(),
                   [](const Samples& a, const Samples& b) { return rank_of_task(a.task) < rank_of_task(b.task); });
  Scores scores;
  scores.scorer = scorer_name(scorer);
  scores.segmentation = segmenter.name();
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
  for (const data::Record& record : train) {
    const std::int64_t count = ++by_task[record.task].counts[record.target];
    by_task[record.task].most = std::max(by_task[record.task].most, count);
  }
  for (const data::Record& record : train) {
    Majority& majority = by_task[record.task];
    if (majority.answer.empty() && majority.counts[record.target] == majority.most) majority.answer = record.target;
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
