#include "moelora/nn/linear_by_hand.h"

namespace moelora::nn {

bool can_run_by_hand(const LinearImpl& linear) {
  return !linear.weight.requires_grad() && !(linear.bias.defined() && linear.bias.requires_grad()) &&
         (linear.active_delta() == nullptr || linear.active_delta()->by_hand());
}

at::Tensor forward_by_hand(const LinearImpl& linear, const at::Tensor& x, const RowContext& context, at::Tensor& tape) {
  const FrozenWeight weight(linear.weight);
  if (linear.active_delta() == nullptr) {
    return weight.forward(x, linear.bias);
  }
  at::Tensor y = linear.active_delta()->begin_forward(x, linear.bias, context, tape);
  weight.add_forward(y, x);
  return y;
}

at::Tensor backward_by_hand(const LinearImpl& linear, const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                            const RowContext& context, bool need_dx, DeltaGradients& gradients) {
  const FrozenWeight weight(linear.weight);
  if (linear.active_delta() == nullptr) {
    return need_dx ? weight.backward(dy) : at::Tensor();
  }
  at::Tensor dx = linear.active_delta()->begin_backward(dy, x, tape, context, need_dx, gradients);
  if (need_dx) {
    weight.add_backward(dx, dy);
  }
  return dx;
}

}  // namespace moelora::nn
