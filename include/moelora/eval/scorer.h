#pragma once
// Scores per task: predictions against references, and the majority answer as a baseline.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/eval/metrics.h"
#include "moelora/eval/segmenter.h"

namespace moelora::eval {

enum class Scorer { moelora };  ///< As MOELoRA-peft's evaluation.

/// Error: an unknown name, or one that this version does not have yet (`promptcblue`, `paper`).
Scorer scorer_from_name(std::string_view name);
std::string_view scorer_name(Scorer scorer);

struct TaskScore {
  std::string task;
  std::string metric;  ///< e.g. "micro-F1"
  double score = 0;    ///< 0 … 1
  std::optional<double> precision;
  std::optional<double> recall;
  std::int64_t samples = 0;
  /// Answers that could not be read: a label that was not offered; a list or report without any readable part, unless
  /// a reference of this task says "none" in the same words; an empty or overlong free text. They count as wrong.
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
/// position. Error: counts differ, a reference has no prediction, a prediction has no reference, or two records at the
/// same position differ in task or input; it names the records.
std::vector<std::size_t> match_predictions(const std::vector<data::Record>& references,
                                           const std::vector<data::Record>& predictions);

/// A prediction's answer is in its field `target`. A task outside PromptCBLUE is scored by the share of right labels if
/// its task_type is cls, matching or nli or all its references are answer choices, else by Rouge-L.
/// References without a target are left out and counted.
/// Error: nothing to score, or as match_predictions.
Scores score(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
             Scorer scorer = Scorer::moelora, const Segmenter& segmenter = default_segmenter());

/// dev with each target replaced by its task's most frequent target in train (the first of several; empty for a task
/// that train does not have). Records of train without a target don't count. Error: none has one.
std::vector<data::Record> majority_predictions(const std::vector<data::Record>& train,
                                               const std::vector<data::Record>& dev);
Scores majority_scores(const std::vector<data::Record>& train, const std::vector<data::Record>& dev,
                       Scorer scorer = Scorer::moelora, const Segmenter& segmenter = default_segmenter());

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
