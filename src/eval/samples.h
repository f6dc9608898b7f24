#pragma once
// What scores are made of: one task's samples, their answers in structured form, and what each sample contributes.

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/rouge.h"
#include "moelora/eval/scorer.h"
#include "moelora/eval/segmenter.h"

namespace moelora::eval {

/// One task's references and answers side by side; points into the records.
struct Samples {
  std::string task;
  std::vector<const data::Record*> references;
  std::vector<const data::Record*> predictions;
  AnswerFormat format = AnswerFormat::moelora;
  Metric metric = Metric::micro_f1;

  std::size_t count() const { return references.size(); }
  /// Files of bare predictions may leave out what the reference says anyway.
  const std::vector<std::string>& choices(std::size_t i) const {
    return predictions[i]->answer_choices.empty() ? references[i]->answer_choices : predictions[i]->answer_choices;
  }
};

/// PromptCBLUE's tasks in its order, then others in order of appearance, each with the format and metric that the
/// scorer gives it. Errors as match_predictions; a task for which the scorer has no metric.
std::vector<Samples> samples_by_task(const std::vector<data::Record>& references,
                                     const std::vector<data::Record>& predictions, const Scorer& scorer);

struct ParsedSamples {
  std::vector<nlohmann::ordered_json> truth;
  std::vector<nlohmann::ordered_json> answers;
};
ParsedSamples parse_samples(const Samples& samples);

/// Tasks with one label per sample.
struct LabelColumns {
  std::vector<std::string> truth;
  std::vector<std::string> answers;
};
LabelColumns labels_of(const Samples& samples, const ParsedSamples& parsed);

/// Items of one sample as the task's metric counts them.
ItemCounts item_counts(Metric metric, const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answers);

/// One sample of free text. What could not be compared (empty, overlong) counts as 0.
struct TextScore {
  RougeScores sum;    ///< over its parts; Rouge-1 and Rouge-2 only where the benchmark's Rouge is computed
  double weight = 1;  ///< How many samples it stands for: its sections, where all sections weigh the same.
  bool is_readable = true;
};
TextScore text_score(Metric metric, const nlohmann::ordered_json& truth, const nlohmann::ordered_json& answer,
                     const Segmenter& segmenter);

}  // namespace moelora::eval
