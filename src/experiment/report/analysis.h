#pragma once
// Statistics of an experiment, computed once for all its forms of report.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "moelora/eval/resampling.h"
#include "moelora/experiment/results.h"

namespace moelora::experiment {

struct TaskFacts {
  std::string name;
  std::string metric;
  std::int64_t samples = 0;
};

struct Analysis {
  std::vector<TaskFacts> tasks;            ///< of the references
  std::string segmentation_note;           ///< eval::segmentation_note
  eval::BootstrapOptions options;          ///< of all bootstraps
  std::vector<eval::BootstrapRow> scored;  ///< rows, then sweep points
  eval::Bootstrap bootstrap;               ///< of `scored`
  std::vector<eval::Bootstrap> new_tasks;
  std::optional<std::size_t> base;  ///< indices of rows; none: no such row
  std::optional<std::size_t> baseline;
  std::optional<std::size_t> single;
  std::optional<std::size_t> equal_to;
};

/// Errors as write_experiment_report.
Analysis analyse(const Results& results);

/// Trained parameters apart from the gate, relative to those of the row Results::equal_to, less 1. None where a count
/// is missing.
std::optional<double> parameter_deviation(const Results& results, const Analysis& analysis, const MethodResults& row);
/// None where a count is missing.
std::optional<double> share_of_base(const Results& results, std::int64_t trained_parameters);

/// Index of the smallest finite validation loss.
std::optional<std::size_t> chosen_loss(const Tuning& tuning);
/// Whether the chosen rate is the smallest or the largest of those tried, so that a better one may lie beyond.
bool is_at_edge(const Tuning& tuning);

/// Titles of the methods with one run: their intervals hold no variance between seeds.
std::vector<std::string> rows_of_one_seed(const Results& results);

/// Distinct swept parameters in order of appearance; the points of one, by value.
std::vector<std::string> swept_parameters(const Results& results);
std::vector<std::size_t> points_of(const Results& results, const std::string& parameter);

}  // namespace moelora::experiment
