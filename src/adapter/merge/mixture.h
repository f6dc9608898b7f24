#pragma once
// Several tasks' updates, weighted, as one update for each linear.

#include <string>
#include <utility>
#include <vector>

#include "moelora/adapter/adapter.h"

namespace moelora {

using Mixture = std::vector<std::pair<std::string, double>>;  // task, weight

/// Σ weight_t · ΔW_t of each linear. Error: unknown task, NotMergeable, an update that is not finite.
std::vector<nn::LowRank> mixed_updates(const AdapterImpl& adapter, const Mixture& mixture);

}  // namespace moelora
