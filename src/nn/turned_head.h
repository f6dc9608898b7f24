#pragma once
// One head's rotary turn on plain pointers.

#include <c10/util/Exception.h>

#include <cstdint>

#include "moelora/nn/rotary.h"

namespace moelora::nn {

// The pairs of d columns: in blocks of `block` columns, pair i of a block is (i·step, i·step + offset).
struct Pairs {
  std::int64_t block;
  std::int64_t offset;
  std::int64_t step;

  Pairs(RotaryPairing pairing, std::int64_t d)
      : block(pairing == RotaryPairing::two_axes ? d / 2 : d),
        offset(pairing == RotaryPairing::interleaved ? 1 : block / 2),
        step(pairing == RotaryPairing::interleaved ? 2 : 1) {
    TORCH_INTERNAL_ASSERT(d % (pairing == RotaryPairing::two_axes ? 4 : 2) == 0);
  }
};

// One head's first d columns, x to out (which may be x), in fp32 without fused multiply-add.
template <typename scalar>
void turn_head(const scalar* x, const float* cos, const float* sin, const Pairs& pairs, std::int64_t d, float sign,
               float* out) {
  for (std::int64_t block = 0; block < d; block += pairs.block) {
    for (std::int64_t i = 0; i < pairs.block / 2; ++i) {
      const std::int64_t first = block + i * pairs.step;
      const std::int64_t second = first + pairs.offset;
      const auto a = static_cast<float>(x[first]);
      const auto b = static_cast<float>(x[second]);
      out[first] = a * cos[first] - b * (sign * sin[first]);
      out[second] = b * cos[second] + a * (sign * sin[second]);
    }
  }
}

/// Turns heads as rotated_in_float does: the first rotary_dim columns, the others are copied.
class TurnedHead {
 public:
  /// Tables fp32 on the CPU, which must stay alive; heads of `width` columns.
  TurnedHead(const Rotary& rotary, std::int64_t width)
      : cos_(rotary.tables.cos.const_data_ptr<float>()),
        sin_(rotary.tables.sin.const_data_ptr<float>()),
        d_(rotary.rotary_dim()),
        width_(width),
        pairs_(rotary.pairing, d_) {}

  /// x [width] of row `row` → out [width] fp32.
  template <typename scalar>
  void operator()(std::int64_t row, const scalar* x, float* out) const {
    turn_head(x, cos_ + row * d_, sin_ + row * d_, pairs_, d_, 1.0f, out);
    for (std::int64_t i = d_; i < width_; ++i) {
      out[i] = static_cast<float>(x[i]);
    }
  }

 private:
  const float* cos_;
  const float* sin_;
  std::int64_t d_, width_;
  Pairs pairs_;
};

}  // namespace moelora::nn
