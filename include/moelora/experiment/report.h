#pragma once
// An experiment's report: scores with bootstrap intervals (eval/resampling.h), paired differences, costs, figures. On
// pages and terminals scores are in percent, in results.json 0 … 1. The same results give the same bytes.

#include <filesystem>
#include <string>

#include "moelora/experiment/results.h"

namespace moelora::experiment {

/// Writes results.json, results.md and results.html (self-contained: no script, nothing loaded) into `folder`, each
/// atomically. Error: two methods of the same key, runs that don't answer the references (as eval::score), expert
/// weights that are not one line of equal length per task.
void write_experiment_report(const std::filesystem::path& folder, const Results& results);

/// For a terminal: methods with average, interval and difference from the baseline, then tasks × methods.
std::string main_table(const Results& results);

}  // namespace moelora::experiment
