#include "nn/kernels/cpu/attention.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/gemm.h"

namespace moelora::nn::kernels {
namespace {

constexpr std::int64_t kChunkRows = 64;

void gather(HeadRows<const float*> from, std::int64_t head, const std::vector<std::int64_t>& rows, std::int64_t width,
            float scale, float* to) {
  for (const std::int64_t row : rows) {
    const float* source = from.at(row, head);
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      to[c] = source[c] * scale;
    }
    to += width;
  }
}

void scatter(const float* from, const std::vector<std::int64_t>& rows, HeadRows<float*> to, std::int64_t head,
             std::int64_t width) {
  for (const std::int64_t row : rows) {
    std::copy(from, from + width, to.at(row, head));
    from += width;
  }
}

// Calls use(head, chunk) for all of them. All chunks of a segment and of `group` neighbouring heads come to one thread
// in order, so that sums over them need no lock and do not depend on the number of threads.
template <typename Use>
void for_heads_and_chunks(const AttentionShape& shape, const std::vector<QueryChunk>& chunks, std::int64_t group,
                          const Use& use) {
  std::vector<std::size_t> begin(static_cast<std::size_t>(shape.segments) + 1, chunks.size());
  for (std::size_t i = chunks.size(); i-- > 0;) {
    begin[static_cast<std::size_t>(chunks[i].segment)] = i;
  }
  for (std::size_t i = begin.size() - 1; i-- > 0;) {
    begin[i] = std::min(begin[i], begin[i + 1]);  // a segment without queries is empty
  }
  at::parallel_for(0, shape.heads / group * shape.segments, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t task = first; task < last; ++task) {
      const auto segment = static_cast<std::size_t>(task % shape.segments);
      const std::int64_t first_head = task / shape.segments * group;
      for (std::int64_t head = first_head; head < first_head + group; ++head) {
        for (std::size_t i = begin[segment]; i < begin[segment + 1]; ++i) {
          use(head, chunks[i]);
        }
      }
    }
  });
}

}  // namespace

std::vector<QueryChunk> query_chunks(const Segments& segments, const std::int64_t* output_rows, std::int64_t count) {
  std::vector<std::vector<std::pair<std::int64_t, std::int64_t>>> queries(
      static_cast<std::size_t>(segments.count()));  // (row, output) of each segment
  for (std::int64_t output = 0; output < count; ++output) {
    const std::int64_t row = output_rows == nullptr ? output : output_rows[output];
    const auto segment =
        std::upper_bound(segments.offsets.begin(), segments.offsets.end(), row) - segments.offsets.begin() - 1;
    queries[static_cast<std::size_t>(segment)].emplace_back(row, output);
  }
  std::vector<QueryChunk> chunks;
  for (std::int64_t segment = 0; segment < segments.count(); ++segment) {
    auto& rows = queries[static_cast<std::size_t>(segment)];
    std::sort(rows.begin(), rows.end());
    const std::int64_t begin = segments.offsets[segment];
    const std::int64_t both_ways = segments.bidirectional[segment];
    const auto is_bidirectional = [&](std::int64_t row) { return row - begin < both_ways; };
    for (const auto& [row, output] : rows) {
      const bool fits = !chunks.empty() && chunks.back().segment == segment &&
                        static_cast<std::int64_t>(chunks.back().rows.size()) < kChunkRows &&
                        is_bidirectional(chunks.back().rows.back()) == is_bidirectional(row);
      if (!fits) {
        chunks.push_back({segment, begin, 0, {}, {}, {}});
      }
      QueryChunk& chunk = chunks.back();
      const std::int64_t seen = is_bidirectional(row) ? both_ways : row - begin + 1;
      chunk.rows.push_back(row);
      chunk.outputs.push_back(output);
      chunk.seen.push_back(seen);
      chunk.keys = std::max(chunk.keys, seen);
    }
  }
  return chunks;
}

void attend_segments(const AttentionShape& shape, const std::vector<QueryChunk>& chunks, HeadRows<const float*> q,
                     HeadRows<const float*> k, HeadRows<const float*> v, float* out, float* log_sum) {
  const std::int64_t d = shape.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const HeadRows<float*> result{out, shape.heads * d, d};
  for_heads_and_chunks(shape, chunks, 1, [&](std::int64_t head, const QueryChunk& chunk) {
    thread_local std::vector<float> buffer;
    const std::int64_t kv_head = head / shape.group();
    const auto count = static_cast<std::int64_t>(chunk.rows.size());
    buffer.resize(static_cast<std::size_t>(2 * count * d + count * chunk.keys));
    float* queries = buffer.data();
    float* output = queries + count * d;
    float* scores = output + count * d;
    gather(q, head, chunk.rows, d, scale, queries);
    gemm(Op::none, Op::transpose, count, chunk.keys, d, 1.0f, queries, d, k.at(chunk.first_key, kv_head), k.row_stride,
         0.0f, scores, chunk.keys);
    for (std::int64_t i = 0; i < count; ++i) {
      log_sum[chunk.outputs[i] * shape.heads + head] =
          cpu_kernels().softmax_row(scores + i * chunk.keys, chunk.seen[i], chunk.keys);
    }
    gemm(Op::none, Op::none, count, d, chunk.keys, 1.0f, scores, chunk.keys, v.at(chunk.first_key, kv_head),
         v.row_stride, 0.0f, output, d);
    scatter(output, chunk.outputs, result, head, d);
  });
}

void attend_segments_backward(const AttentionShape& shape, const std::vector<QueryChunk>& chunks,
                              HeadRows<const float*> q, HeadRows<const float*> k, HeadRows<const float*> v,
                              const float* dy, const float* out, const float* log_sum, HeadRows<float*> dq,
                              HeadRows<float*> dk, HeadRows<float*> dv) {
  const std::int64_t d = shape.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  const HeadRows<const float*> dy_rows{dy, shape.heads * d, d};
  const HeadRows<const float*> out_rows{out, shape.heads * d, d};
  for_heads_and_chunks(shape, chunks, shape.group(), [&](std::int64_t head, const QueryChunk& chunk) {
    thread_local std::vector<float> buffer;
    const std::int64_t kv_head = head / shape.group();
    const auto count = static_cast<std::int64_t>(chunk.rows.size());
    buffer.resize(static_cast<std::size_t>(3 * count * d + 2 * count * chunk.keys));
    float* queries = buffer.data();
    float* gradients = queries + count * d;
    float* dqueries = gradients + count * d;
    float* p = dqueries + count * d;
    float* dscores = p + count * chunk.keys;
    gather(q, head, chunk.rows, d, scale, queries);
    gather(dy_rows, head, chunk.outputs, d, 1.0f, gradients);
    gemm(Op::none, Op::transpose, count, chunk.keys, d, 1.0f, queries, d, k.at(chunk.first_key, kv_head), k.row_stride,
         0.0f, p, chunk.keys);
    gemm(Op::none, Op::transpose, count, chunk.keys, d, 1.0f, gradients, d, v.at(chunk.first_key, kv_head),
         v.row_stride, 0.0f, dscores, chunk.keys);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t output = chunk.outputs[i];
      cpu_kernels().probability_row(p + i * chunk.keys, chunk.seen[i], chunk.keys,
                                    log_sum[output * shape.heads + head]);
      const float dot = cpu_kernels().dot_row(gradients + i * d, out_rows.at(output, head), d);
      cpu_kernels().softmax_backward_row(p + i * chunk.keys, dscores + i * chunk.keys, chunk.keys, dot);
    }
    gemm(Op::none, Op::none, count, d, chunk.keys, scale, dscores, chunk.keys, k.at(chunk.first_key, kv_head),
         k.row_stride, 0.0f, dqueries, d);
    scatter(dqueries, chunk.rows, dq, head, d);
    gemm(Op::transpose, Op::none, chunk.keys, d, count, 1.0f, dscores, chunk.keys, queries, d, 1.0f,
         dk.at(chunk.first_key, kv_head), dk.row_stride);
    gemm(Op::transpose, Op::none, chunk.keys, d, count, 1.0f, p, chunk.keys, gradients, d, 1.0f,
         dv.at(chunk.first_key, kv_head), dv.row_stride);
  });
}

}  // namespace moelora::nn::kernels
