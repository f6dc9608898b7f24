#pragma once
// Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) over the last axis:
//
//   y = weight · round(x · rstd)      rstd = 1 / sqrt(mean of x² + epsilon)
//
// in fp32; x · rstd is rounded to the type of x before it is scaled, as the models of the Llama kind are computed.

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

namespace moelora::nn {

/// With `weight` [d].
class RmsNormImpl : public torch::nn::Cloneable<RmsNormImpl> {
 public:
  RmsNormImpl(std::int64_t width, double epsilon) : width_(width), epsilon_(epsilon) { reset(); }
  RmsNormImpl(at::Tensor weight, double epsilon);  ///< Around an existing tensor.
  void reset() override;
  /// x [..., d] → [..., d], by plain operations: the readable reference that tests compare with. fp64 is computed in
  /// fp64.
  at::Tensor forward(const at::Tensor& x);
  double epsilon() const { return epsilon_; }

  at::Tensor weight;

 private:
  std::int64_t width_;
  double epsilon_;
};
TORCH_MODULE(RmsNorm);

/// What a norm's forward leaves for a manual backward. Nothing below is recorded by autograd.
struct RmsNormResult {
  at::Tensor y;     ///< [rows, d]
  at::Tensor rstd;  ///< [rows, 1] fp32
};
/// x [rows, d] contiguous.
RmsNormResult rms_norm_forward(const RmsNormImpl& norm, const at::Tensor& x);
/// x := x + residual, and the norm of that. residual [rows, d].
RmsNormResult add_then_rms_norm(const RmsNormImpl& norm, at::Tensor& x, const at::Tensor& residual);
/// The norm again, from its statistic.
at::Tensor rms_norm_again(const RmsNormImpl& norm, const at::Tensor& x, const at::Tensor& rstd);
/// The gradient for x where dy is that of y, plus dresidual (undefined: nothing). With g = dy · weight:
///   dx = rstd · (g - x · rstd² · mean of g·x) + dresidual
/// Overwrites dy.
at::Tensor rms_norm_backward(const RmsNormImpl& norm, at::Tensor& dy, const at::Tensor& dresidual, const at::Tensor& x,
                             const at::Tensor& rstd);

}  // namespace moelora::nn
