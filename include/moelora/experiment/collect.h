#pragma once
// From the finished cells to results: whatever is not finished yet is left open in the report.

#include <filesystem>

#include "moelora/experiment/grid.h"
#include "moelora/experiment/results.h"

namespace moelora::experiment {

Results collect(const ExperimentConfig& config, const std::filesystem::path& output);

}  // namespace moelora::experiment
