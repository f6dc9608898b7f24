#include "eval/samples.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "eval/python_text.h"
#include "moelora/eval/scorer.h"

namespace moelora::eval {
namespace {

// PromptCBLUE's order first, so that tables of different data files read alike.
std::size_t rank_of_task(const std::string& task) {
  const TaskRule* rule = find_task_rule(task);
  return rule == nullptr ? task_rules().size() : static_cast<std::size_t>(rule - task_rules().data());
}

// None for a text that is empty or too long to compare.
std::optional<RougeScore> compare_texts(const std::string& truth, const std::string& answer, std::string_view prefix,
                                        const Segmenter& segmenter) {
  const auto form = [&](const std::string& text) { return std::string(prefix) + join_tokens(segmenter.cut(text)); };
  if (text::words(answer).empty() && prefix.empty()) return std::nullopt;
  const std::string answer_words = form(answer);
  const std::string truth_words = form(truth);
  if (text::words(answer_words).size() > kMaxRougeWords || text::words(truth_words).size() > kMaxRougeWords) {
    return std::nullopt;
  }
  return rouge_l(answer_words, truth_words);
}

}  // namespace

std::vector<Samples> samples_by_task(const std::vector<data::Record>& references,
                                     const std::vector<data::Record>& predictions) {
  const std::vector<std::size_t> matches = match_predictions(references, predictions);
  std::vector<Samples> by_task;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < references.size(); ++i) {
    if (!has_target(references[i])) continue;
    const auto [place, fresh] = index.try_emplace(references[i].task, by_task.size());
    if (fresh) by_task.push_back({references[i].task, {}, {}});
    by_task[place->second].references.push_back(&references[i]);
    by_task[place->second].predictions.push_back(&predictions[matches[i]]);
  }
  without_target(references, "the data");  // an error if there is no other
  std::stable_sort(by_task.begin(), by_task.end(),
                   [](const Samples& a, const Samples& b) { return rank_of_task(a.task) < rank_of_task(b.task); });
  return by_task;
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

ParsedSamples parse_samples(const Samples& samples) {
  using Json = nlohmann::ordered_json;
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

LabelColumns labels_of(const Samples& samples, const ParsedSamples& parsed) {
  LabelColumns labels;
  for (std::size_t i = 0; i < samples.count(); ++i) {
    labels.truth.push_back(parsed.truth[i]);
    labels.answers.push_back(parsed.answers[i]);
    // The data set's own spelling mixes a half-width and a full-width bracket.
    if (samples.task == "CHIP-CTC") {
      labels.answers.back() = text::replace(labels.answers.back(), "(医生检测)", "(医生检测）");
    }
  }
  return labels;
}

TextScore text_score(const std::string& truth, const std::string& answer, const Segmenter& segmenter) {
  // The reference compares "-" in the place of an empty answer.
  const auto compared = compare_texts(truth, answer.empty() ? "-" : answer, "", segmenter);
  return {compared.value_or(RougeScore{}), compared.has_value() && !answer.empty()};
}

TextScore section_score(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answer,
                        const Segmenter& segmenter) {
  TextScore mean;
  const double weight = 1.0 / static_cast<double>(truth.size());
  for (const auto& [section, text] : truth.items()) {
    if (!answer.contains(section)) continue;
    const auto compared = compare_texts(text, answer[section], "-", segmenter);
    if (!compared) mean.is_readable = false;
    const RougeScore each = compared.value_or(RougeScore{});
    mean.rouge.f += each.f * weight;
    mean.rouge.precision += each.precision * weight;
    mean.rouge.recall += each.recall * weight;
  }
  return mean;
}

}  // namespace moelora::eval
