#pragma once
// The mask of one linear as its rows' keys: what a kernel needs to draw it again, row by row.

#include <cstdint>
#include <vector>

#include "moelora/nn/row_context.h"

namespace moelora::nn {

struct DropoutMask {
  std::vector<std::uint64_t> keys;  ///< [rows]; empty: nothing is dropped
  std::uint32_t threshold = 0;      ///< An element stays when its 32 random bits are at least this.
  float scale = 1.0f;               ///< 1 / (1 - p)
  bool active() const { return !keys.empty(); }
};

/// What the keys of a linear's rows grow from.
std::uint64_t dropout_stem(std::uint64_t seed, std::uint64_t linear);
std::uint32_t dropout_threshold(double p);
float dropout_scale(double p);

/// p in [0, 1); p = 0 or an inactive key: a mask that drops nothing.
DropoutMask dropout_mask(double p, std::uint64_t linear, const RowContext& context);

}  // namespace moelora::nn
