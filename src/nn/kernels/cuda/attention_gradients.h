#pragma once
// The gradients of attention's two calls (nn/device_attention.h) put together in one launch. The reference: the tensor
// operations that device_attention.cpp has for devices without kernels.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// What a backward call of attention returned, [n, heads, head_dim] each, contiguous; undefined: it was not made.
struct HeadGradients {
  at::Tensor dq, dk, dv;
};

/// Fills dq [rows, heads, head_dim], dk and dv [rows, kv_heads, head_dim], views with a unit last stride, from the call
/// over parts (all rows) and from the one over causal rows (dq of those, dk and dv of all rows). causal_of_row [rows]
/// int32: which of the causal rows a row is, or -1.
void join_gradients(const HeadGradients& parts, const HeadGradients& causal, const at::Tensor& causal_of_row,
                    const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv);

std::vector<KernelInfo> attention_gradient_kernels();

}  // namespace moelora::nn::kernels
