#include "moelora/nn/layer_norm.h"

#include <ATen/ops/layer_norm.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "nn/kernels/cuda/layer_norm.h"

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

namespace {

NormResult by_kernel(const LayerNormImpl& norm, const at::Tensor& x, const at::Tensor& residual, double scale) {
  auto [y, mean, rstd] = kernels::add_and_normalise(x, residual, scale, norm.weight, norm.bias, norm.epsilon());
  return {std::move(y), std::move(mean), std::move(rstd)};
}

}  // namespace

NormResult norm_forward(const LayerNormImpl& norm, const at::Tensor& x) {
  if (kernels::has_norm_kernels(x, norm.weight, norm.bias)) {
    return by_kernel(norm, x, {}, 0.0);
  }
  auto [y, mean, rstd] = at::native_layer_norm(x, {x.size(1)}, norm.weight, norm.bias, norm.epsilon());
  return {std::move(y), std::move(mean), std::move(rstd)};
}

NormResult add_then_norm(const LayerNormImpl& norm, at::Tensor& x, const at::Tensor& residual, double scale) {
  if (kernels::has_norm_kernels(x, norm.weight, norm.bias)) {
    return by_kernel(norm, x, residual.contiguous(), scale);
  }
  x.add_(residual, scale);
  return norm_forward(norm, x);
}

at::Tensor norm_backward(const LayerNormImpl& norm, at::Tensor& dy, const at::Tensor& dresidual, double scale,
                         const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd) {
  if (kernels::has_norm_kernels(x, norm.weight, norm.bias) && dy.is_contiguous() && mean.scalar_type() == at::kFloat) {
    kernels::normalise_backward_(dy, dresidual.defined() ? dresidual.contiguous() : dresidual, scale, x, mean, rstd,
                                 norm.weight);
    return dy;
  }
  if (dresidual.defined()) {
    dy.add_(dresidual, scale);
  }
  return std::get<0>(
      at::native_layer_norm_backward(dy, x, {x.size(1)}, mean, rstd, norm.weight, norm.bias, {true, false, false}));
}

}  // namespace moelora::nn
