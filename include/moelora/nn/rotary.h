#pragma once
// Two-dimensional rotary positions: the first half of a head is rotated by position row 0, the second half
// by row 1. inv_freq is rounded to fp16 as the reference does, also in fp32 models; a half model computes the angles in
// half too.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

struct RotaryTables {
  at::Tensor cos;  ///< [rows, head_dim]: first half for position row 0, second half for row 1
  at::Tensor sin;
};

/// 10000^(-2i/half), i < half/2, rounded to fp16 and given as fp32: [half/2].
at::Tensor rotary_inverse_frequencies(std::int64_t half, at::Device device = at::kCPU);

/// Tables for one axis. positions [n] int64, half = head_dim / 2; returns cos and sin [n, half] in `dtype`.
RotaryTables rotary_axis(const at::Tensor& positions, std::int64_t half, at::ScalarType dtype);

/// positions [2, rows] int64 → tables [rows, head_dim], made once per batch.
RotaryTables rotary_tables(const at::Tensor& positions, std::int64_t head_dim, at::ScalarType dtype);

/// x [rows, heads, head_dim] → rotated, same shape. Pairs i with i + head_dim/4 inside each half. Differentiable.
at::Tensor apply_rotary(const at::Tensor& x, const RotaryTables& tables);

/// The same in place, not recorded by autograd; x may be a view with a unit last stride. inverse: turns back, which is
/// also the gradient.
void rotate_in_place(at::Tensor x, const RotaryTables& tables, bool inverse = false);

}  // namespace moelora::nn
