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

/// What a norm's forward leaves for a manual backward. Nothing below is recorded by autograd.
struct NormResult {
  at::Tensor y;           ///< [rows, d]
  at::Tensor mean, rstd;  ///< [rows, 1], fp32 on a device
};
/// x [rows, d] contiguous.
NormResult norm_forward(const LayerNormImpl& norm, const at::Tensor& x);
/// x := x + scale · residual, and the norm of that.
NormResult add_then_norm(const LayerNormImpl& norm, at::Tensor& x, const at::Tensor& residual, double scale);
/// The gradient for x where dy + scale · dresidual is that of y; dresidual may be undefined. Overwrites dy.
at::Tensor norm_backward(const LayerNormImpl& norm, at::Tensor& dy, const at::Tensor& dresidual, double scale,
                         const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd);

}  // namespace moelora::nn
