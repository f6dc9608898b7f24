#pragma once
// Scores per task: predictions against references, and the majority answer as a baseline.

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/metrics.h"
#include "moelora/eval/segmenter.h"

namespace moelora::eval {

/// How answers are read and scored.
struct Scorer {
  enum class Kind {
    moelora,      ///< as MOELoRA-peft's evaluation
    promptcblue,  ///< as the benchmark's own evaluation: set F1, weighted F1, tokens of BERT's basic tokenizer
    paper,        ///< as moelora, but CHIP-CTC by macro-F1, as the MOELoRA paper has it
    by_task       ///< any task, by the metric that is listed for it; answers are taken as they are
  };
  Kind kind = Kind::moelora;
  std::string name = "moelora";  ///< Written beside the scores; of by_task its file.
  /// Of by_task: accuracy, macro_f1, exact_match or rouge_l for each task, and for those that are not listed.
  std::map<std::string, Metric> tasks = {};
  std::optional<Metric> others = {};
};

/// `moelora`, `promptcblue`, `paper`. Error: another name.
Scorer scorer_from_name(std::string_view name);

/// {"default": METRIC, "tasks": {TASK: METRIC, …}} with the metrics `accuracy`, `macro-f1`, `exact-match`, `rouge-l`;
/// one of the two keys may be missing. Error: anything else, all problems at once.
Scorer scorer_from_json(const nlohmann::ordered_json& json, std::string name);

/// One of the names, or such a JSON file. Error: neither, with the nearest name.
Scorer scorer_from(const std::string& name_or_file);

/// What a scorer by_task lists for a task. Error: nothing, and no default, naming the nearest task that it lists.
Metric listed_metric(const Scorer& scorer, const std::string& task);

/// Before the long part: the error that scoring these records would end with. Warns of tasks that the scorer lists and
/// no record has.
void check_scorer(const Scorer& scorer, const std::vector<data::Record>& records);

struct TaskScore {
  std::string task;
  std::string metric;  ///< e.g. "micro-F1"
  double score = 0;    ///< 0 … 1
  std::optional<double> precision;
  std::optional<double> recall;
  std::optional<double> rouge_1;  ///< of the scorer promptcblue: F of Rouge-1 and Rouge-2
  std::optional<double> rouge_2;
  std::int64_t samples = 0;
  /// Answers that could not be read: a label that was not offered (without choices: that is no reference's); a list or
  /// report without any readable part, unless a reference of this task says "none" in the same words; an empty or
  /// overlong free text. They count as wrong.
  std::int64_t unparsable = 0;
  bool segmented = false;       ///< The score depends on word segmentation.
  std::vector<LabelF1> labels;  ///< tasks with one label per answer
};

struct Scores {
  std::string scorer;
  std::string segmentation;      ///< how texts were cut into words for Rouge-L
  std::vector<TaskScore> tasks;  ///< PromptCBLUE's in its order, then others in order of appearance
  double average = 0;            ///< mean of the tasks' scores
  std::int64_t samples = 0;      ///< records that were scored
  std::int64_t unparsable = 0;
  data::CountedRecords left_out;  ///< references without a target (missing, null or empty): not scored

  const TaskScore* find(std::string_view task) const;  ///< nullptr: not scored
};

/// Whether there is something to score against: a target that is more than white space.
bool has_target(const data::Record& record);
/// The records without a target. Error: none has one; `what` names the records ("dev.json").
data::CountedRecords without_target(const std::vector<data::Record>& records, std::string_view what);

/// For each reference the index of its prediction. By task and sample_id where both sides have unique ones, else by
/// position; a prediction without a task is of any. Error: counts differ, a reference has no prediction, a prediction
/// has no reference, or two records that belong together differ in task, input, history or system text (unless one has
/// none); it names the records.
std::vector<std::size_t> match_predictions(const std::vector<data::Record>& references,
                                           const std::vector<data::Record>& predictions);

/// A prediction's answer is in its field `target`. A task outside PromptCBLUE is scored by the metric that the scorer
/// lists; else by the share of right labels if its task_type is cls, matching or nli or all its references are answer
/// choices, else by Rouge-L. The scorer promptcblue has tokens of its own, whatever the segmenter.
/// References without a target are left out and counted.
/// Error: nothing to score, a task that a scorer by_task has no metric for, or as match_predictions.
Scores score(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
             const Scorer& scorer = {}, const Segmenter& segmenter = default_segmenter());

/// dev with each target replaced by its task's most frequent target in train (the first of several). Records of train
/// without a target don't count. Error: none has one, or none of a task that dev has targets of.
std::vector<data::Record> majority_predictions(const std::vector<data::Record>& train,
                                               const std::vector<data::Record>& dev);
Scores majority_scores(const std::vector<data::Record>& train, const std::vector<data::Record>& dev,
                       const Scorer& scorer = {}, const Segmenter& segmenter = default_segmenter());

/// What texts are cut into: the benchmark's scorer has its own way.
std::string segmentation_of(const Scorer& scorer, const Segmenter& segmenter);
/// Whether a metric depends on it.
bool depends_on_segmentation(Metric metric);

nlohmann::ordered_json to_json(const Scores& scores);

/// What a reader must know about scores that depend on segmentation; empty when none does.
std::string segmentation_note(const Scores& scores);

/// How many records were left out because they have no target; empty when none was.
std::string left_out_note(const Scores& scores);

/// One line per task, aligned columns, a last line with the average, then segmentation_note and left_out_note.
std::string to_table(const Scores& scores);
/// One column of scores per entry (name, scores), e.g. before, after, majority answer.
std::string comparison_table(const std::vector<std::pair<std::string, const Scores*>>& columns);

}  // namespace moelora::eval
