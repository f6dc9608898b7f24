#pragma once
// The low-rank update of a batch of rows on the CPU in fp32, in one pass: a block of rows is dropped, multiplied with
// A, weighed and multiplied with B while it is in the cache. Nothing as wide as a row is written but the result.
// Where each row has one expert, only that expert's slice of A and B is multiplied: r/N elements of u instead of r.

#include <ATen/core/Tensor.h>

#include <vector>

#include "moelora/nn/row_source.h"
#include "nn/dropout_mask.h"

namespace moelora::nn::kernels {

struct LowRankCall {
  at::Tensor A;               ///< [r, d_in] fp32
  at::Tensor B;               ///< [d_out, r] fp32
  at::Tensor diagonal;        ///< [S, width()]: what an entry of u is multiplied with, by the row's segment
  at::Tensor segment_of_row;  ///< [rows] int64
  std::int64_t experts = 1;
  DropoutMask mask;
  /// [S]: the only expert of each segment, 0 … experts - 1. Empty: rows take all of A and B.
  std::vector<std::int64_t> expert_of_segment;
  bool trains = true;  ///< Whether A and B get gradients.

  /// Elements of u for each row: r, or r/N where each row has one expert.
  std::int64_t width() const { return expert_of_segment.empty() ? A.size(0) : A.size(0) / experts; }
};

/// y = bias + B (diagonal ⊙ u) with u = A drop(x). x [rows, d_in], bias [d_out] or undefined. Returns y [rows, d_out];
/// fills u [rows, width()].
at::Tensor low_rank_forward(const LowRankCall& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u);

struct LowRankGradients {
  at::Tensor A;            ///< [r, d_in]; both undefined unless the call trains; zeros for an expert that no row has
  at::Tensor B;            ///< [d_out, r]
  at::Tensor expert_sums;  ///< [rows, N]: Σ over an expert's entries of (B^T dy) ⊙ u; undefined unless wanted
};

/// dy [rows, d_out] contiguous. dx [rows, d_in] is added to, and multiplied by the derivative of x where x is
/// elementwise; undefined: not wanted. Expert sums are for calls without expert_of_segment.
LowRankGradients low_rank_backward(const LowRankCall& call, const at::Tensor& dy, const RowSource& x,
                                   const at::Tensor& u, at::Tensor& dx, bool need_expert_sums);

}  // namespace moelora::nn::kernels
