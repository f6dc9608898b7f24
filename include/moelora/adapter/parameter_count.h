#pragma once
// How many numbers an adapter holds, by what they are for.

#include <cstdint>

#include "moelora/adapter/adapter.h"

namespace moelora {

struct ParameterCount {
  std::int64_t linears = 0;  ///< Adapted linears.
  std::int64_t updates = 0;  ///< Of all linears' deltas, without their routers.
  std::int64_t gates = 0;    ///< What chooses among experts: task embeddings, gates, token routers.
  std::int64_t prefix = 0;
  std::int64_t saved = 0;  ///< Of modules_to_save, which travel whole.
};

ParameterCount count_parameters(const AdapterImpl& adapter);

/// Trained parameters of the adapter that inject() would make with this configuration, modules_to_save apart. Nothing
/// is made. Error as from inject() if a target matches nothing.
std::int64_t planned_parameter_count(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks);

}  // namespace moelora
