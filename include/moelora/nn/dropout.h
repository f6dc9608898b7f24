#pragma once
// Dropout whose mask is a function of (seed, global draw index of the sample, linear, position in the sample, column):
// regenerated in backward instead of stored, independent of packing, threads and ranks.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "moelora/nn/row_context.h"

namespace moelora::nn {

/// x [rows, d] → x ⊙ mask / (1 - p). Differentiable only through apply_keyed_dropout on the gradient (same mask).
/// `linear` distinguishes the masks of different linears. p in [0, 1); p = 0 or an inactive key returns x itself.
at::Tensor apply_keyed_dropout(const at::Tensor& x, double p, std::uint64_t linear, const RowContext& context);

/// Which elements the mask keeps, bool [rows, width], computed by tensor operations: what devices without a kernel of
/// their own use, and what tests compare the kernel with. The context's key must be active.
at::Tensor keyed_dropout_keep_mask(std::int64_t width, double p, std::uint64_t linear, const RowContext& context);

}  // namespace moelora::nn
