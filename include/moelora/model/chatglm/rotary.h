#pragma once
// ChatGLM-6B's two-dimensional rotary positions: the first half of a head turns by position row 0, the second half by
// row 1. The frequencies are rounded to fp16 as the reference does, also in fp32 models, and a half model computes the
// angles in half too.

#include "moelora/nn/rotary.h"

namespace moelora::model {

/// 10000^(-2i/half), i < half/2, rounded to fp16 and given as fp32: [half/2]. half = head_dim / 2.
at::Tensor chatglm_frequencies(std::int64_t half, at::Device device = at::kCPU);

/// Tables of one axis. positions [n] int64; returns cos and sin [n, half] in `dtype`.
nn::RotaryTables chatglm_rotary_axis(const at::Tensor& positions, std::int64_t half, at::ScalarType dtype);

/// positions [2, rows] int64 → what all columns of a head turn by, tables [rows, head_dim].
nn::Rotary chatglm_rotary(const at::Tensor& positions, std::int64_t head_dim, at::ScalarType dtype);

}  // namespace moelora::model
