#pragma once
// The low-rank update of a batch of rows on the CPU in fp32, in one pass: a block of rows is dropped, multiplied with
// A, weighed and multiplied with B while it is in the cache. Nothing as wide as a row is written but the result.

#include <ATen/core/Tensor.h>

#include "moelora/nn/row_source.h"
#include "nn/dropout_mask.h"

namespace moelora {

struct LowRankCall {
  at::Tensor A;               ///< [r, d_in] fp32
  at::Tensor B;               ///< [d_out, r] fp32
  at::Tensor diagonal;        ///< [S, r]: what an entry of A x is multiplied with, by the row's segment
  at::Tensor segment_of_row;  ///< [rows] int64
  std::int64_t experts = 1;
  nn::DropoutMask mask;
  bool trains = true;  ///< Whether A and B get gradients.
};

/// y = bias + B (diagonal ⊙ u) with u = A drop(x). x [rows, d_in], bias [d_out] or undefined. Returns y [rows, d_out];
/// fills u [rows, r].
at::Tensor low_rank_forward(const LowRankCall& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u);

struct LowRankGradients {
  at::Tensor A;            ///< [r, d_in]; both undefined unless the call trains
  at::Tensor B;            ///< [d_out, r]
  at::Tensor expert_sums;  ///< [rows, N]: Σ over an expert's entries of (B^T dy) ⊙ u; undefined unless wanted
};

/// dy [rows, d_out] contiguous. dx [rows, d_in] is added to, and chained through x where x chains; undefined: not
/// wanted.
LowRankGradients low_rank_backward(const LowRankCall& call, const at::Tensor& dy, const nn::RowSource& x,
                                   const at::Tensor& u, at::Tensor& dx, bool need_expert_sums);

}  // namespace moelora
