#pragma once
// Losses by task, and what is said of a validation whose loss is not finite.

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

#include "moelora/train/trainer.h"

namespace moelora::train {

using LossByTask = std::map<std::string, std::pair<double, std::int64_t>>;  ///< Sum of losses, labels.

nlohmann::ordered_json means_of(const LossByTask& losses);

/// "a, b of task x; c of task y", the first few of each task.
std::string samples_not_finite(const ValidationLoss& validation);

/// The log's line; a loss that is not finite is null there, with the samples' ids in "not_finite".
nlohmann::ordered_json log_line(const ValidationLoss& validation, std::int64_t step, bool best);

}  // namespace moelora::train
