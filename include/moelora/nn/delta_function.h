#pragma once
// A delta's manual backward as an autograd function of its own, for models whose blocks have none: LinearDelta::forward
// of a delta that writes its backward out once, in begin_forward and finish_backward.

#include <memory>

#include "moelora/nn/linear_delta.h"

namespace moelora::nn {

/// x W^T + bias + delta(x), recorded by autograd as one function with gradients for x, context.expert_weights and
/// delta.trained(). x [rows, d_in]; weight and bias frozen. Saves x, the delta's tape and ω.
at::Tensor forward_as_function(std::shared_ptr<const LinearDelta> delta, const at::Tensor& x,
                               const FrozenWeight& weight, const at::Tensor& bias, const RowContext& context);

}  // namespace moelora::nn
