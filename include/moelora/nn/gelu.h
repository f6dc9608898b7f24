#pragma once
// GELU in the tanh form, forward and manual backward.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

/// 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x³))). x of any shape; not recorded by autograd.
at::Tensor gelu(const at::Tensor& x);
/// dy := dy · gelu'(x), in place. dy has x's shape.
void gelu_backward_(at::Tensor& dy, const at::Tensor& x);

}  // namespace moelora::nn
