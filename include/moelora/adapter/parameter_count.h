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

}  // namespace moelora
