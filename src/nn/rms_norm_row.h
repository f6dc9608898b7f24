#pragma once
// One row's root mean square normalisation on plain pointers.

#include <cstdint>

#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::nn {

/// x [width] := x + added where that is not null; y = the norm of x. Returns its statistic. x is written to only where
/// there is something to add.
inline float rms_norm_row(float* x, const float* added, const float* weight, float epsilon, float* y,
                          std::int64_t width) {
  const auto& kernels = kernels::cpu_kernels();
  if (added != nullptr) {
    kernels.add_row(x, added, width);
  }
  const float rstd = kernels.rms_row(x, epsilon, width);
  kernels.rms_normalise_row(x, rstd, weight, y, width);
  return rstd;
}

}  // namespace moelora::nn
