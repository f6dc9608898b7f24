#pragma once
// Prefix-LM attention over packed segments, without mask tensors: context rows attend to all context rows of their
// segment, target rows to everything before and including themselves. Softmax in fp32.

#include <ATen/core/Tensor.h>

#include "moelora/nn/row_context.h"

namespace moelora::nn {

/// A key/value prefix of one layer, seen by every row, never masked, not rotated (P-Tuning v2).
struct KeyValuePrefix {
  at::Tensor key;    ///< [P, heads, head_dim], or [S, P, heads, head_dim] for one prefix per segment
  at::Tensor value;  ///< as key
  bool defined() const { return key.defined(); }
};

/// q, k, v [rows, heads, head_dim] → [rows, heads, head_dim]. Scores are scaled by 1/sqrt(head_dim).
at::Tensor prefix_lm_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments,
                               const KeyValuePrefix& prefix = {});

/// The same by plain differentiable operations with a mask: the readable reference that tests compare with, and the
/// path that carries gradients into a prefix.
at::Tensor prefix_lm_attention_reference(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const Segments& segments, const KeyValuePrefix& prefix = {});

}  // namespace moelora::nn
