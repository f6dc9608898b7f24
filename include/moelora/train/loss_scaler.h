#pragma once
// Dynamic loss scaling as PyTorch's GradScaler does it: in fp16 small gradients would vanish, so the loss is multiplied
// by a power of two and the gradients are divided by it. A step whose gradients overflow is skipped (parameters,
// moments and AdamW's step counts stay, the order of samples goes on) and halves the scale; many good steps in a row
// double it.
//
// On a device the scale lives there too and follows each step without a wait. The numbers here follow when the steps
// are read, by the same rule, so that both agree after each step; a checkpoint holds the ones here.

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace moelora::train {

class LossScaler {
 public:
  /// Off: the scale is 1 and stays.
  explicit LossScaler(bool on, const at::Device& device = at::kCPU);

  bool is_on() const { return on_; }
  double scale() const { return scale_; }
  std::int64_t good_steps() const { return good_steps_; }              ///< In a row, since the scale last changed.
  std::int64_t skipped_steps() const { return skipped_steps_; }        ///< Of the whole run.
  std::int64_t skipped_in_a_row() const { return skipped_in_a_row_; }  ///< The last steps.
  /// As a checkpoint has them; the device's as well.
  void restore(double scale, std::int64_t good_steps, std::int64_t skipped_steps, std::int64_t skipped_in_a_row);

  void good_step();  ///< The gradients of a step were finite.
  /// They were not: the step is skipped. Returns whether a smaller scale can be tried; without scaling, or at a scale
  /// of 1, it cannot, and nothing changes.
  bool skip_step();

  /// 0-dim fp32, the scale of the step that is computed next; undefined on a CPU and without scaling.
  const at::Tensor& device_scale() const { return device_scale_; }
  /// Where steps are not read at once: what good_step() or skip_step() will do, on the device. `found_inf`: 0-dim fp32,
  /// 1 if the step is skipped.
  void update_on_device(const at::Tensor& found_inf);

  static constexpr double kInitialScale = 65536.0;
  static constexpr double kLargestScale = 16777216.0;
  static constexpr std::int64_t kGrowthInterval = 2000;  ///< Good steps before the scale is doubled.

 private:
  void send_to_device();
  bool on_;
  at::Device device_;
  double scale_;
  std::int64_t good_steps_ = 0;
  std::int64_t skipped_steps_ = 0;
  std::int64_t skipped_in_a_row_ = 0;
  at::Tensor device_scale_;
  at::Tensor device_good_steps_;
};

}  // namespace moelora::train
