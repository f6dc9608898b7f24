#pragma once
// Attention over packed segments on the CPU in fp32: scores of a few query rows and one head stay in the cache, and
// backward recomputes them from the stored log-sums.

#include <cstdint>
#include <vector>

#include "moelora/nn/row_context.h"

namespace moelora::nn::kernels {

/// [rows, heads, head_dim] with a unit last stride.
template <typename Pointer>
struct HeadRows {
  Pointer data;
  std::int64_t row_stride;
  std::int64_t head_stride;
  Pointer at(std::int64_t row, std::int64_t head) const { return data + row * row_stride + head * head_stride; }
};

/// Queries of one segment that are computed together.
struct QueryChunk {
  std::int64_t segment;
  std::int64_t first_key;             ///< row of the segment's first key
  std::int64_t keys;                  ///< keys that the last of them sees
  std::vector<std::int64_t> rows;     ///< row of each query
  std::vector<std::int64_t> outputs;  ///< row of its result
  std::vector<std::int64_t> seen;     ///< keys that it sees
};

/// Queries: all rows, or `output_rows` (count of them; result i belongs to output_rows[i]).
std::vector<QueryChunk> query_chunks(const Segments& segments, const std::int64_t* output_rows, std::int64_t count);

struct AttentionShape {
  std::int64_t heads;
  std::int64_t kv_heads;  ///< divides heads
  std::int64_t head_dim;
  std::int64_t segments;

  std::int64_t group() const { return heads / kv_heads; }  ///< query heads that share a head of k and v
};

/// out [n, heads, head_dim] and log_sum [n, heads], contiguous.
void attend_segments(const AttentionShape& shape, const std::vector<QueryChunk>& chunks, HeadRows<const float*> q,
                     HeadRows<const float*> k, HeadRows<const float*> v, float* out, float* log_sum);

/// Adds to dk and dv, and sets dq of the queries' rows. dy and out [n, heads, head_dim] contiguous.
void attend_segments_backward(const AttentionShape& shape, const std::vector<QueryChunk>& chunks,
                              HeadRows<const float*> q, HeadRows<const float*> k, HeadRows<const float*> v,
                              const float* dy, const float* out, const float* log_sum, HeadRows<float*> dq,
                              HeadRows<float*> dk, HeadRows<float*> dv);

}  // namespace moelora::nn::kernels
