#pragma once
// GELU (tanh form) and SwiGLU on a device. The CPU's twin: kernels/cpu/isa/gelu.cpp; the reference: at::gelu, at::silu
// and their backward.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// All tensors contiguous and of one shape and type.
at::Tensor gelu_on_device(const at::Tensor& x);
/// dy := dy · gelu'(x).
void gelu_backward_on_device_(const at::Tensor& dy, const at::Tensor& x);

/// silu(gate) · up.
at::Tensor swiglu_on_device(const at::Tensor& gate, const at::Tensor& up);
/// dy becomes the gradient of up; returns that of gate.
at::Tensor swiglu_backward_on_device_(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up);

std::vector<KernelInfo> gelu_kernels();

}  // namespace moelora::nn::kernels
