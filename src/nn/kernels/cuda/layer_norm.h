#pragma once
// Layer normalisation with its residual on a device. The CPU's twin: kernels/cpu/isa/layer_norm.cpp; the reference:
// at::native_layer_norm and its backward.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

struct NormalisedOnDevice {
  at::Tensor y;     ///< [rows, width]
  at::Tensor mean;  ///< [rows, 1] fp32
  at::Tensor rstd;  ///< [rows, 1] fp32
};

/// Whether the kernels below take x [rows, width] with these parameters [width].
bool has_norm_kernels(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// x := x + scale · residual (undefined: x stays), and the norm of that. x and residual [rows, width] contiguous.
NormalisedOnDevice add_and_normalise(const at::Tensor& x, const at::Tensor& residual, double scale,
                                     const at::Tensor& weight, const at::Tensor& bias, double epsilon);
/// The norm again, from its statistics.
at::Tensor normalise_again(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                           const at::Tensor& weight, const at::Tensor& bias);
/// dy becomes dx, where dy + scale · dresidual is the gradient of the norm's output; dresidual may be undefined.
void normalise_backward_(const at::Tensor& dy, const at::Tensor& dresidual, double scale, const at::Tensor& x,
                         const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& weight);

std::vector<KernelInfo> layer_norm_kernels();

}  // namespace moelora::nn::kernels
