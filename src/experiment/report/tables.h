#pragma once
// The tables of an experiment's report.

#include <utility>

#include "experiment/report/analysis.h"
#include "experiment/report/table.h"

namespace moelora::experiment {

/// Columns of score_table and seesaw_table before those of the tasks.
inline constexpr std::size_t kScoreSummary = 5;
inline constexpr std::size_t kSeesawSummary = 4;

/// Methods × (seeds, average, difference from the baseline, tasks). The base and the majority answer are never marked.
Table score_table(const Results& results, const Analysis& analysis);
/// Methods × tasks with the interval of each score.
Table interval_table(const Results& results, const Analysis& analysis);
Table parameter_table(const Results& results, const Analysis& analysis);
Table cost_table(const Results& results);
/// Gain or loss of each method on each task against one adapter per task.
Table seesaw_table(const Results& results, const Analysis& analysis);
Table sweep_table(const Results& results, const Analysis& analysis, const std::string& parameter);
Table expert_table(const ExpertWeights& weights);
Table new_task_table(const Results& results, const Analysis& analysis, std::size_t index);
/// Learning rates × methods; the chosen one is bold, and named where it is at the edge of those tried.
Table tuning_table(const Results& results);

/// What the mark of methods with one run says.
inline const std::string kOneSeedMeaning = "† One seed: the intervals hold no variance between seeds.";

std::string title_or(const Results& results, std::optional<std::size_t> row, const std::string& key);

}  // namespace moelora::experiment
