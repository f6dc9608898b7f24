#include "moelora/nn/linear_manual_backward.h"

#include <ATen/core/Tensor.h>

namespace moelora::nn {

bool supports_manual_backward(const LinearImpl& linear) {
  return !linear.weight.requires_grad() && !(linear.bias.defined() && linear.bias.requires_grad()) &&
         (linear.active_delta() == nullptr || linear.active_delta()->supports_manual_backward());
}

at::Tensor manual_forward(const LinearImpl& linear, const at::Tensor& x, const RowContext& context, at::Tensor& tape) {
  linear.require_context_of_active(context);
  const FrozenWeight weight(linear.weight);
  if (linear.active_delta() == nullptr) {
    return weight.forward(x, linear.bias);
  }
  at::Tensor y = linear.active_delta()->begin_forward(x, linear.bias, context, tape);
  weight.add_forward(y, x);
  return y;
}

at::Tensor manual_backward(const LinearImpl& linear, const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                           const RowContext& context, bool need_dx, DeltaGradients& gradients) {
  at::Tensor dx = need_dx ? FrozenWeight(linear.weight).backward(dy) : at::Tensor();
  if (linear.active_delta() != nullptr) {
    linear.active_delta()->finish_backward(dy, x, tape, context, dx, gradients);
  } else if (need_dx && x.is_elementwise()) {
    x.multiply_by_derivative(dx);
  }
  return dx;
}

void add_manual_backward(const LinearImpl& linear, const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                         const RowContext& context, at::Tensor& dx, DeltaGradients& gradients) {
  TORCH_INTERNAL_ASSERT(!x.is_elementwise(), "the derivative belongs to all of dx");
  if (dx.defined()) {
    dx.addmm_(dy, linear.weight);
  }
  if (linear.active_delta() != nullptr) {
    linear.active_delta()->finish_backward(dy, x, tape, context, dx, gradients);
  }
}

}  // namespace moelora::nn
