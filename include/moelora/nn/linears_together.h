#pragma once
// Linears of the same input, as a block's queries, keys and values are: where decoding multiplies a few rows, one wait
// of the threads for all of them instead of one for each.

#include <ATen/core/Tensor.h>

#include <vector>

#include "moelora/nn/linear.h"

namespace moelora::nn {

/// LinearImpl::forward(x, context) of each; bit for bit the same. x [rows, d_in] → [rows, d_out] each, in the order of
/// `linears`.
std::vector<at::Tensor> forward_together(const std::vector<LinearImpl*>& linears, const at::Tensor& x,
                                         const RowContext& context);

}  // namespace moelora::nn
