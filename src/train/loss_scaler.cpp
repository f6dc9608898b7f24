#include "moelora/train/loss_scaler.h"

#include <algorithm>

namespace moelora::train {

void LossScaler::restore(double scale, std::int64_t good_steps) {
  if (on_) {
    scale_ = scale;
    good_steps_ = good_steps;
  }
}

void LossScaler::good_step() {
  if (on_ && ++good_steps_ >= kGrowthInterval) {
    scale_ = std::min(2.0 * scale_, kLargestScale);
    good_steps_ = 0;
  }
}

bool LossScaler::back_off() {
  if (!on_ || scale_ <= 1.0) {
    return false;
  }
  scale_ *= 0.5;
  good_steps_ = 0;
  return true;
}

}  // namespace moelora::train
