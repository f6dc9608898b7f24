#pragma once
// weight = round(source + B A), on any device and for any float dtype.

#include <ATen/core/Tensor.h>

#include "moelora/nn/low_rank.h"
#include "nn/kernels/cpu/fold.h"

namespace moelora {

/// Folds an update into a weight in place; source has the weight's shape and dtype and may be the weight itself.
/// Accumulated in fp32 (weights of fp64: in fp64), rounded once. The extremes are zeros without `measure`.
nn::kernels::FoldExtremes fold_weight(const at::Tensor& weight, const at::Tensor& source, const nn::LowRank& update,
                                      bool measure);

double largest_magnitude(const at::Tensor& values);

}  // namespace moelora
