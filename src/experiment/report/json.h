#pragma once
// An experiment as JSON: what was given (but not the answers) and the statistics, scores 0 … 1.

#include <nlohmann/json_fwd.hpp>

#include "experiment/report/analysis.h"

namespace moelora::experiment {

/// Absent values are null, and so are losses that are not finite.
nlohmann::ordered_json to_json(const Results& results, const Analysis& analysis);

}  // namespace moelora::experiment
