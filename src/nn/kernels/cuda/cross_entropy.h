#pragma once
// Cross entropy of rows of logits on a device. The reference: at::logsumexp and at::softmax, as model/causal_lm.cpp has
// them for a CPU.

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// logits [rows, width] contiguous, labels [rows] int64. Fills losses [rows] fp32; with gradient_scale > 0 the logits
/// become gradient_scale · (softmax - onehot).
void cross_entropy_(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& losses,
                    double gradient_scale);

std::vector<KernelInfo> cross_entropy_kernels();

}  // namespace moelora::nn::kernels
