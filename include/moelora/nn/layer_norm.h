#pragma once
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace moelora::nn {

/// Layer normalisation over the last axis, with `weight` [d] and `bias` [d].
class LayerNormImpl : public torch::nn::Cloneable<LayerNormImpl> {
 public:
  LayerNormImpl(std::int64_t hidden_size, double epsilon) : hidden_size_(hidden_size), epsilon_(epsilon) { reset(); }
  LayerNormImpl(at::Tensor weight, at::Tensor bias, double epsilon);  ///< Around existing tensors.
  void reset() override;
  at::Tensor forward(const at::Tensor& x);  ///< [..., d] → [..., d]
  double epsilon() const { return epsilon_; }

  at::Tensor weight;
  at::Tensor bias;

 private:
  std::int64_t hidden_size_;
  double epsilon_;
};
TORCH_MODULE(LayerNorm);

}  // namespace moelora::nn
