#pragma once
// Keyed dropout on a device. The CPU's twin: kernels/cpu/isa/dropout.cpp; the reference: nn/dropout.cpp.

#include <vector>

#include "moelora/nn/row_context.h"
#include "nn/kernels/cuda/code/dropout.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// The mask of linear `linear` for the rows of `context`, which lie on a device; p in [0, 1). It points into the
/// context's tensors.
device::KeyedMask device_mask(double p, std::uint64_t linear, const RowContext& context);

/// x ⊙ mask, scaled in fp32; x [rows, width].
at::Tensor drop_rows(const at::Tensor& x, const device::KeyedMask& mask);

std::vector<KernelInfo> dropout_kernels();

}  // namespace moelora::nn::kernels
