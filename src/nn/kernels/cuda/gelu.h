#pragma once
// GELU (tanh form) and SwiGLU on a device. The CPU's twins: kernels/cpu/isa/gelu.cpp and swiglu.cpp; the reference:
// at::gelu, at::silu and their backward.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// Contiguous; any shape.
at::Tensor gelu_on_device(const at::Tensor& x);
/// dy := dy · gelu'(x).
void gelu_backward_on_device_(const at::Tensor& dy, const at::Tensor& x);

/// silu(gate) · up. Both [rows, width] with a unit last stride, as the halves of a fused projection have it; returns
/// [rows, width] contiguous.
at::Tensor swiglu_on_device(const at::Tensor& gate, const at::Tensor& up);
/// Fills dgate and dup, laid out as gate and up may be, from dy [rows, width] contiguous; dup may be dy.
void swiglu_backward_on_device(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up,
                               const at::Tensor& dgate, const at::Tensor& dup);

std::vector<KernelInfo> gelu_kernels();

}  // namespace moelora::nn::kernels
