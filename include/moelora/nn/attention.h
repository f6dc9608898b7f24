#pragma once
// Prefix-LM and causal attention over packed segments, without mask tensors: a segment's bidirectional rows attend to
// each other, the rows behind them (in a causal model: all rows) to everything before and including themselves. Softmax
// in fp32.

#include <ATen/core/Tensor.h>

#include "moelora/nn/row_context.h"

namespace moelora::nn {

/// Which rows attend to which: boundaries, and with a context also its tables on the rows' device. From boundaries
/// alone, each call on a device uploads tables of its own.
struct AttentionRows {
  // Implicit: callers hand over what they have.
  AttentionRows(const Segments& boundaries) : segments(boundaries) {}  // NOLINT(google-explicit-constructor)
  AttentionRows(const RowContext& context)                             // NOLINT(google-explicit-constructor)
      : segments(context.segments), tables(context.attention), prefixed(context.prefixed_rows) {}
  const Segments& segments;                       ///< Of whom it was made from, which must live as long.
  std::shared_ptr<const AttentionTables> tables;  ///< Null: none yet.
  std::shared_ptr<const PrefixedRows> prefixed;   ///< Likewise for rows behind a prefix.
};

/// q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim] → [rows, heads, head_dim]. kv_heads divides heads: key
/// and value head i serves the query heads i · heads / kv_heads, … (grouped-query attention, Ainslie et al. 2023, arXiv
/// 2305.13245). Scores are scaled by 1/sqrt(head_dim). A prefix has kv_heads heads, as k and v.
at::Tensor prefix_lm_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionRows& rows,
                               const KeyValuePrefix& prefix = {});

/// Forward and manual backward, not recorded by autograd: what prefix_lm_attention and graphs with a backward of their
/// own are made of. Scores are never stored; backward recomputes them from the log-sums.
struct AttentionResult {
  at::Tensor output;   ///< [n, heads, head_dim]: all rows, or those of `output_rows`
  at::Tensor log_sum;  ///< [n, heads] fp32: log of each query's sum of exponentials
  // Of a device's kernels (nn/device_attention.h), which store log-sums in forms of their own:
  at::Tensor all_output;      ///< [rows, heads, head_dim] where output_rows chose from it
  at::Tensor causal_output;   ///< [causal rows, heads, head_dim]
  at::Tensor causal_log_sum;  ///< Of causal_output.
};
/// q, k, v as above, unit stride in the last axis. output_rows [n] int64: the queries wanted, on the device of q;
/// undefined: all. A prefix stands in front of every segment as rows that have no queries.
AttentionResult attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionRows& rows, const at::Tensor& output_rows = {},
                                  const KeyValuePrefix& prefix = {});
/// dy [n, heads, head_dim]. Fills dq, dk and dv, views as q, k and v; dq of rows that were no queries becomes 0. dk and
/// dv are sums over the query heads that share a head.
void attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const AttentionResult& result, const AttentionRows& rows, const at::Tensor& output_rows,
                        at::Tensor dq, at::Tensor dk, at::Tensor dv);
/// The same with the prefix of the forward; returns its gradient, shaped as the prefix.
KeyValuePrefix attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionResult& result, const AttentionRows& rows,
                                  const at::Tensor& output_rows, const KeyValuePrefix& prefix, at::Tensor dq,
                                  at::Tensor dk, at::Tensor dv);

/// x with each of its heads (along axis `dim`) repeated for the query heads that it serves; x itself where there are
/// already `heads` of them. Differentiable.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t dim, std::int64_t heads);

/// The same by plain differentiable operations with a mask: the readable reference that tests compare with, and the
/// path that carries gradients into a prefix.
at::Tensor prefix_lm_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const Segments& segments, const KeyValuePrefix& prefix = {});

}  // namespace moelora::nn
