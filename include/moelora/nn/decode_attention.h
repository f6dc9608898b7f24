#pragma once
// Attention of one new row for each of several sequences over keys and values that are cached: append and attention
// without a copy of the cache. CPU, no gradients.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moelora::nn {

/// What several sequences have in a cache: row i of a step belongs to slot slots[i], which holds counts[i] rows so far.
struct CachedSequences {
  at::Tensor keys;    ///< [slots, kv_heads, capacity, d] contiguous, fp32, fp16 or bf16
  at::Tensor values;  ///< as keys
  std::vector<std::int64_t> slots;
  std::vector<std::int64_t> counts;
};

/// q [rows, heads, d] and k, v [rows, kv_heads, d], q and k rotated if the model rotates; kv_heads divides heads, and
/// key/value head i serves the query heads i · heads / kv_heads, …. k and v are rounded to the cache's dtype, q (fp32
/// or that dtype) is used as it is. Row i is written behind the rows that its slot holds, and attends to all counts[i]
/// + 1 of them. Returns [rows, heads, d] in the cache's dtype. Scores are scaled by 1/sqrt(d); all sums and the softmax
/// are fp32. A row's result depends neither on the other rows nor on the number of threads.
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const CachedSequences& cached);

}  // namespace moelora::nn
