#pragma once
// The check of all gradients of a step on a device: two or three launches, whatever their number. The reference, and
// what is done without these kernels: AdamW::collect_on_device.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// 0-dim fp32, on the gradients' device.
struct StepDecision {
  at::Tensor norm;        ///< global, of the gradients without the loss scale, before clipping
  at::Tensor found_inf;   ///< 1 if the norm is not finite, else 0
  at::Tensor grad_scale;  ///< what the gradients are to be divided by: the loss scale, and what clipping asks for
};

/// Whether decide_step takes these: fp32, contiguous, on a device with kernels.
bool has_unscale_kernels(const std::vector<at::Tensor>& gradients);

/// `loss_scale`: 0-dim fp32, or undefined for 1; `max_norm`: 0 for no limit. The order of the sums is fixed.
StepDecision decide_step(const std::vector<at::Tensor>& gradients, const at::Tensor& loss_scale, double max_norm);

std::vector<KernelInfo> unscale_kernels();

}  // namespace moelora::nn::kernels
