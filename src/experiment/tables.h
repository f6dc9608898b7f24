#pragma once
// The tables of an experiment's report.

#include <utility>

#include "experiment/analysis.h"
#include "experiment/table.h"

namespace moelora::experiment {

/// Methods × (seeds, average, difference from the baseline, tasks).
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
/// Learning rates × methods; the chosen one is marked best.
Table tuning_table(const Results& results);

std::string title_or(const Results& results, std::optional<std::size_t> row, const std::string& key);

}  // namespace moelora::experiment
