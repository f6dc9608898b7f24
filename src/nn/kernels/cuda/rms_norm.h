#pragma once
// Root mean square normalisation with its residual on a device. The CPU's twin: kernels/cpu/isa/rms_norm.cpp; the
// reference: RmsNormImpl::forward and its gradient by autograd.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

struct RmsNormalisedOnDevice {
  at::Tensor y;     ///< [rows, width]
  at::Tensor rstd;  ///< [rows, 1] fp32
};

/// Whether the kernels below take x [rows, width] with this weight [width].
bool has_rms_norm_kernels(const at::Tensor& x, const at::Tensor& weight);

/// x := x + residual (undefined: x stays), and the norm of that. x and residual [rows, width] contiguous.
RmsNormalisedOnDevice add_and_rms_normalise(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                                            double epsilon);
/// The norm again, from its statistic.
at::Tensor rms_normalise_again(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight);
/// dy, the gradient of the norm's output, becomes dx + dresidual (undefined: dx).
void rms_normalise_backward_(const at::Tensor& dy, const at::Tensor& dresidual, const at::Tensor& x,
                             const at::Tensor& rstd, const at::Tensor& weight);

std::vector<KernelInfo> rms_norm_kernels();

}  // namespace moelora::nn::kernels
