#include "eval/samples.h"

#include <algorithm>
#include <optional>
#include <unordered_map>

#include "moelora/eval/basic_tokens.h"
#include "moelora/eval/python_text.h"

namespace moelora::eval {
namespace {

// PromptCBLUE's order first, so that tables of different data files read alike.
std::size_t rank_of_task(const std::string& task) {
  const TaskRule* rule = find_task_rule(task);
  return rule == nullptr ? task_rules().size() : static_cast<std::size_t>(rule - task_rules().data());
}

// A task that no rule names: by its right labels where its answers are labels.
bool answers_are_labels(const Samples& samples) {
  return std::all_of(samples.references.begin(), samples.references.end(), [](const data::Record* record) {
    if (record->task_type == "cls" || record->task_type == "matching" || record->task_type == "nli") return true;
    const auto& choices = record->answer_choices;
    return std::find(choices.begin(), choices.end(), text::strip(record->target)) != choices.end();
  });
}

void choose_scoring(const Scorer& scorer, Samples& samples) {
  if (scorer.kind == Scorer::Kind::by_task) {
    samples.format = AnswerFormat::plain;
    samples.metric = listed_metric(scorer, samples.task);
    return;
  }
  const bool benchmark = scorer.kind == Scorer::Kind::promptcblue;
  if (benchmark) samples.format = AnswerFormat::promptcblue;
  if (const TaskRule* rule = find_task_rule(samples.task)) {
    samples.metric = benchmark ? rule->benchmark_metric : rule->metric;
    if (scorer.kind == Scorer::Kind::paper && rule->task == "CHIP-CTC") samples.metric = Metric::macro_f1;
  } else if (answers_are_labels(samples)) {
    samples.metric = Metric::micro_f1;
  } else {
    samples.metric = benchmark ? Metric::benchmark_rouge_l : Metric::rouge_l;
  }
  samples.task = scored_name(samples.task, samples.format);
}

bool is_overlong(const std::string& words) { return text::words(words).size() > kMaxRougeWords; }

// None for a text that is empty or too long to compare.
std::optional<RougeScore> compare_texts(const std::string& truth, const std::string& answer, std::string_view prefix,
                                        const Segmenter& segmenter) {
  const auto form = [&](const std::string& text) { return std::string(prefix) + join_tokens(segmenter.cut(text)); };
  if (text::words(answer).empty() && prefix.empty()) return std::nullopt;
  const std::string answer_words = form(answer);
  const std::string truth_words = form(truth);
  if (is_overlong(answer_words) || is_overlong(truth_words)) return std::nullopt;
  return rouge_l(answer_words, truth_words);
}

// As the benchmark compares: "none." in the place of a text without tokens. None: too long.
std::optional<RougeScores> compare_for_benchmark(const std::string& truth, const std::string& answer) {
  const auto form = [](const std::string& text) {
    const std::string words = join_tokens(basic_tokens(text));
    return words.empty() ? std::string("无 。") : words;
  };
  const std::string answer_words = form(answer);
  const std::string truth_words = form(truth);
  if (is_overlong(answer_words) || is_overlong(truth_words)) return std::nullopt;
  return rouge_chinese(answer_words, truth_words);
}

void add(const RougeScore& score, double weight, RougeScore& sum) {
  sum.f += score.f * weight;
  sum.precision += score.precision * weight;
  sum.recall += score.recall * weight;
}

TextScore whole_text_score(const std::string& truth, const std::string& answer, const Segmenter& segmenter) {
  // The reference compares "-" in the place of an empty answer.
  const auto compared = compare_texts(truth, answer.empty() ? "-" : answer, "", segmenter);
  TextScore score;
  score.sum.rouge_l = compared.value_or(RougeScore{});
  score.is_readable = compared.has_value() && !answer.empty();
  return score;
}

TextScore section_score(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answer,
                        const Segmenter& segmenter) {
  TextScore mean;
  const double weight = 1.0 / static_cast<double>(truth.size());
  for (const auto& [section, text] : truth.items()) {
    if (!answer.contains(section)) continue;
    const auto compared = compare_texts(text, answer[section], "-", segmenter);
    if (!compared) mean.is_readable = false;
    add(compared.value_or(RougeScore{}), weight, mean.sum.rouge_l);
  }
  return mean;
}

void add_for_benchmark(const std::string& truth, const std::string& answer, TextScore& score) {
  const auto compared = compare_for_benchmark(truth, answer);
  if (!compared) {
    score.is_readable = false;
    return;
  }
  add(compared->rouge_1, 1.0, score.sum.rouge_1);
  add(compared->rouge_2, 1.0, score.sum.rouge_2);
  add(compared->rouge_l, 1.0, score.sum.rouge_l);
}

TextScore benchmark_section_score(const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answer) {
  TextScore score;
  score.weight = static_cast<double>(truth.size());
  for (const auto& [section, text] : truth.items()) {
    add_for_benchmark(text, answer.value(section, std::string()), score);
  }
  return score;
}

/// Without white space around it, one full stop at its end, and the case of ASCII letters.
std::string folded(std::string_view label) {
  std::string_view kept = text::strip(label);
  if (kept.ends_with('.')) kept = text::strip(kept.substr(0, kept.size() - 1));
  std::string result(kept);
  for (char& c : result) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return result;
}

/// The choice that a label means, else the label; without choices the right answer is one.
std::string as_choice(const std::string& label, const std::vector<std::string>& choices, const std::string& truth) {
  const std::string wanted = folded(label);
  for (const std::string& choice : choices) {
    if (folded(choice) == wanted) return std::string(text::strip(choice));
  }
  return folded(truth) == wanted ? std::string(text::strip(truth)) : label;
}

}  // namespace

std::vector<Samples> samples_by_task(const std::vector<data::Record>& references,
                                     const std::vector<data::Record>& predictions, const Scorer& scorer) {
  const std::vector<std::size_t> matches = match_predictions(references, predictions);
  std::vector<Samples> by_task;
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < references.size(); ++i) {
    if (!has_target(references[i])) continue;
    const auto [place, fresh] = index.try_emplace(references[i].task, by_task.size());
    if (fresh) by_task.emplace_back().task = references[i].task;
    by_task[place->second].references.push_back(&references[i]);
    by_task[place->second].predictions.push_back(&predictions[matches[i]]);
  }
  without_target(references, "the data");  // an error if there is no other
  std::stable_sort(by_task.begin(), by_task.end(),
                   [](const Samples& a, const Samples& b) { return rank_of_task(a.task) < rank_of_task(b.task); });
  for (Samples& samples : by_task) choose_scoring(scorer, samples);
  return by_task;
}

ParsedSamples parse_samples(const Samples& samples) {
  using Json = nlohmann::ordered_json;
  ParsedSamples parsed;
  const bool plain = find_task_rule(samples.task) == nullptr;
  const auto parse = [&](const std::string& answer, const std::vector<std::string>& choices) -> Json {
    return parse_answer(samples.task, answer, choices, plain ? AnswerFormat::plain : samples.format);
  };
  for (std::size_t i = 0; i < samples.count(); ++i) {
    parsed.truth.push_back(parse(samples.references[i]->target, samples.references[i]->answer_choices));
    parsed.answers.push_back(parse(samples.predictions[i]->target, samples.choices(i)));
  }
  return parsed;
}

LabelColumns labels_of(const Samples& samples, const ParsedSamples& parsed) {
  LabelColumns labels;
  const TaskRule* rule = find_task_rule(samples.task);
  for (std::size_t i = 0; i < samples.count(); ++i) {
    labels.truth.push_back(parsed.truth[i]);
    labels.answers.push_back(parsed.answers[i]);
    std::string& answer = labels.answers.back();
    if (samples.format == AnswerFormat::moelora && samples.task == "CHIP-CTC") {
      // The data set's own spelling mixes a half-width and a full-width bracket.
      answer = text::replace(answer, "(医生检测)", "(医生检测）");
    }
    if (samples.metric == Metric::choice_accuracy) {
      for (std::string* label : {&labels.truth.back(), &answer}) {
        *label = as_choice(*label, samples.references[i]->answer_choices, samples.references[i]->target);
      }
    }
    if (samples.format == AnswerFormat::promptcblue && rule != nullptr && answer.empty()) answer = rule->empty_label;
  }
  return labels;
}

ItemCounts item_counts(Metric metric, const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers) {
  return metric == Metric::set_f1 ? count_distinct_items(truth, answers) : count_items(truth, answers);
}

TextScore text_score(Metric metric, const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answer,
                     const Segmenter& segmenter) {
  if (metric == Metric::rouge_l) return whole_text_score(truth, answer, segmenter);
  if (metric == Metric::section_rouge_l) return section_score(truth, answer, segmenter);
  if (metric == Metric::benchmark_section_rouge_l) return benchmark_section_score(truth, answer);
  TextScore score;
  add_for_benchmark(truth, answer, score);
  score.is_readable = score.is_readable && !answer.get_ref<const std::string&>().empty();
  return score;
}

}  // namespace moelora::eval
