#pragma once
// The figures of an experiment's page: HTML and SVG as text, empty where there is nothing to draw.

#include <string>

#include "experiment/report/analysis.h"

namespace moelora::experiment {

/// Average score against a parameter's values, with intervals. Values that are far apart stand on a logarithmic axis.
/// The common setting is ringed and named below.
std::string sweep_chart(const Results& results, const Analysis& analysis, const std::string& parameter);

/// Trained parameters as a share of the base, one bar per row.
std::string share_bars(const Results& results);
/// Milliseconds per generated token, two bars per row: adapter attached, merged.
std::string latency_bars(const Results& results);

}  // namespace moelora::experiment
