#pragma once
// Dynamic loss scaling: in fp16 small gradients would vanish, so the loss is multiplied by a power of two and the
// gradients are divided by it. Overflow halves the scale, many good steps in a row double it.

#include <cstdint>

namespace moelora::train {

class LossScaler {
 public:
  /// Off: the scale is 1 and stays.
  explicit LossScaler(bool on) : on_(on), scale_(on ? kInitialScale : 1.0) {}

  double scale() const { return scale_; }
  std::int64_t good_steps() const { return good_steps_; }
  void restore(double scale, std::int64_t good_steps);

  void good_step();  ///< The gradients of a step were finite.
  /// They were not. Returns whether the step may be tried again with a smaller scale.
  bool back_off();

  static constexpr double kInitialScale = 65536.0;
  static constexpr double kLargestScale = 16777216.0;
  static constexpr std::int64_t kGrowthInterval = 2000;  ///< Good steps before the scale is doubled.

 private:
  bool on_;
  double scale_;
  std::int64_t good_steps_ = 0;
};

}  // namespace moelora::train
