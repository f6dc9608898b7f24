#pragma once
// What a training run will take, printed.

#include <vector>

#include "cli/session.h"
#include "moelora/train/config.h"

namespace moelora::cli {

enum class PlanLengths { of_data, assumed };  ///< Where the examples' lengths come from.

/// Prints the peak memory and the time of a step of `session`'s model on these examples, from the run's first steps.
/// `absent_bytes`: of weights that are not loaded but will be.
void print_plan(const Session& session, const train::TrainConfig& config, const std::vector<data::Example>& examples,
                double absent_bytes = 0.0, PlanLengths lengths = PlanLengths::of_data);

}  // namespace moelora::cli
