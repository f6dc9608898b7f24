#pragma once
// Attention of one new row for each of several sequences over keys and values that are cached: rotation, append and
// attention in one pass over sequences and heads, without a copy of the cache. CPU, no gradients.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/nn/rotary.h"

namespace moelora::nn {

/// q, k, v [rows, heads, d] (the last axis dense) of one dtype, fp32, fp16 or bf16; q and k not yet rotated: `tables`
/// [rows, d] does that here. keys, values [slots, heads, capacity, d], contiguous, the same dtype. Row i is written
/// behind the counts[i] rows that slot slots[i] holds, and attends to all counts[i] + 1 of them.
/// Returns [rows, heads, d] in q's dtype. Scores are scaled by 1/sqrt(d); all sums and the softmax are fp32. A row's
/// result depends neither on the other rows nor on the number of threads.
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const RotaryTables& tables,
                            const at::Tensor& keys, const at::Tensor& values, const std::vector<std::int64_t>& slots,
                            const std::vector<std::int64_t>& counts);

}  // namespace moelora::nn
