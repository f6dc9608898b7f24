#include "moelora/nn/layer_norm.h"

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

namespace moelora::nn {

LayerNormImpl::LayerNormImpl(at::Tensor given_weight, at::Tensor given_bias, double epsilon)
    : hidden_size_(given_weight.size(0)), epsilon_(epsilon) {
  weight = register_parameter("weight", std::move(given_weight));
  bias = register_parameter("bias", std::move(given_bias));
}

void LayerNormImpl::reset() {
  weight = register_parameter("weight", at::ones({hidden_size_}));
  bias = register_parameter("bias", at::zeros({hidden_size_}));
}

at::Tensor LayerNormImpl::forward(const at::Tensor& x) {
  return at::layer_norm(x, {hidden_size_}, weight, bias, epsilon_);
}

}  // namespace moelora::nn
