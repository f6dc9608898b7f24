#pragma once
// The learning rate over the steps of a run.

#include <cstdint>

namespace moelora::train {

enum class Schedule {
  linear,    ///< Falls in a straight line towards 0.
  cosine,    ///< Falls along half a cosine towards 0.
  constant,  ///< Stays.
};

/// Factor on the peak learning rate at `step` (0-based) of `steps`. Warm-up: (step + 1) / warmup_steps. Then, with
/// p = (step - warmup_steps) / (steps - warmup_steps): 1 - p, (1 + cos(π p)) / 2, or 1. Never negative.
double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t steps, std::int64_t warmup_steps);

}  // namespace moelora::train
