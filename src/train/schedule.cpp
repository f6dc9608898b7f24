#include "moelora/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moelora::train {

double schedule_factor(Schedule schedule, std::int64_t step, std::int64_t steps, std::int64_t warmup_steps) {
  if (step < warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  const double decay_steps = static_cast<double>(std::max<std::int64_t>(1, steps - warmup_steps));
  const double progress = std::clamp(static_cast<double>(step - warmup_steps) / decay_steps, 0.0, 1.0);
  switch (schedule) {
    case Schedule::linear:
      return 1.0 - progress;
    case Schedule::cosine:
      return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
    case Schedule::constant:
      break;
  }
  return 1.0;
}

}  // namespace moelora::train
