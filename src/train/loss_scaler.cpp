#include "moelora/train/loss_scaler.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_update_scale.h>
#include <ATen/ops/full.h>

#include <algorithm>

namespace moelora::train {

LossScaler::LossScaler(bool on, const at::Device& device) : on_(on), device_(device), scale_(on ? kInitialScale : 1.0) {
  send_to_device();
}

void LossScaler::send_to_device() {
  if (on_ && !device_.is_cpu()) {
    const at::TensorOptions options(device_);
    device_scale_ = at::full({}, scale_, options.dtype(at::kFloat));
    device_good_steps_ = at::full({}, good_steps_, options.dtype(at::kInt));
  }
}

void LossScaler::restore(double scale, std::int64_t good_steps, std::int64_t skipped_steps,
                         std::int64_t skipped_in_a_row) {
  if (on_) {
    scale_ = scale;
    good_steps_ = good_steps;
    skipped_steps_ = skipped_steps;
    skipped_in_a_row_ = skipped_in_a_row;
    send_to_device();
  }
}

void LossScaler::good_step() {
  skipped_in_a_row_ = 0;
  if (on_ && ++good_steps_ >= kGrowthInterval) {
    scale_ = std::min(2.0 * scale_, kLargestScale);
    good_steps_ = 0;
  }
}

bool LossScaler::skip_step() {
  if (!on_ || scale_ <= 1.0) {
    return false;
  }
  scale_ *= 0.5;
  good_steps_ = 0;
  ++skipped_steps_;
  ++skipped_in_a_row_;
  return true;
}

void LossScaler::update_on_device(const at::Tensor& found_inf) {
  if (device_scale_.defined()) {
    const at::NoGradGuard no_grad;
    at::_amp_update_scale_(device_scale_, device_good_steps_, found_inf, 2.0, 0.5, kGrowthInterval);
    device_scale_.clamp_max_(kLargestScale);
  }
}

}  // namespace moelora::train
