#pragma once
// Prefix-LM and causal attention over packed segments, without mask tensors: a segment's bidirectional rows attend to
// each other, the rows behind them (in a causal model: all rows) to everything before and including themselves. Softmax
// in fp32.

#include <ATen/core/Tensor.h>

#include "moelora/nn/row_context.h"

namespace moelora::nn {

/// q, k, v [rows, heads, head_dim] → [rows, heads, head_dim]. Scores are scaled by 1/sqrt(head_dim).
at::Tensor prefix_lm_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments,
                               const KeyValuePrefix& prefix = {});

/// Forward and manual backward, not recorded by autograd: what prefix_lm_attention and graphs with a backward of their
/// own are made of. Scores are never stored; backward recomputes them from the log-sums.
struct AttentionResult {
  at::Tensor output;   ///< [n, heads, head_dim]: all rows, or those of `output_rows`
  at::Tensor log_sum;  ///< [n, heads] fp32: log of each query's sum of exponentials
};
/// q, k, v [rows, heads, head_dim], unit stride in the last axis. output_rows [n] int64: the queries wanted, on the
/// CPU; undefined: all. A prefix stands in front of every segment as rows that have no queries.
AttentionResult attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const Segments& segments, const at::Tensor& output_rows = {},
                                  const KeyValuePrefix& prefix = {});
/// dy [n, heads, head_dim]. Fills dq, dk and dv, views as q, k and v; dq of rows that were no queries becomes 0.
void attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const AttentionResult& result, const Segments& segments, const at::Tensor& output_rows,
                        at::Tensor dq, at::Tensor dk, at::Tensor dv);
/// The same with the prefix of the forward; returns its gradient, shaped as the prefix.
KeyValuePrefix attention_backward(const at::Tensor& dy, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionResult& result, const Segments& segments,
                                  const at::Tensor& output_rows, const KeyValuePrefix& prefix, at::Tensor dq,
                                  at::Tensor dk, at::Tensor dv);

/// The same by plain differentiable operations with a mask: the readable reference that tests compare with, and the
/// path that carries gradients into a prefix.
at::Tensor prefix_lm_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const Segments& segments, const KeyValuePrefix& prefix = {});

}  // namespace moelora::nn
