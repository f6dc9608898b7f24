#pragma once
// The gated activation of the Llama kind's feed-forward layers (SwiGLU, Shazeer 2020, arXiv 2002.05202), forward and
// manual backward: silu(gate) · up with silu(x) = x / (1 + e^-x), in fp32 whatever the type.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

/// gate and up [rows, width] of one type, each with a unit last stride: two tensors, or the halves of one
/// (gate_and_up). Returns [rows, width] contiguous; not recorded by autograd.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
/// Fills dgate and dup, laid out as gate and up are, from dy [rows, width] contiguous; dup may be dy.
void swiglu_backward(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up, at::Tensor dgate,
                     at::Tensor dup);

/// The halves of a fused projection's output [rows, 2 width], the gate's columns first, as views.
struct GateAndUp {
  at::Tensor gate, up;  ///< [rows, width]
};
GateAndUp gate_and_up(const at::Tensor& fused);

}  // namespace moelora::nn
