#pragma once
// Rotary positions on a device. The CPU's twin: kernels/cpu/isa/rotary.cpp; the reference: nn::apply_rotary.

#include <vector>

#include "moelora/nn/rotary.h"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// Turns q and k [rows, heads, head_dim] in place (inverse: back), both in one launch; k may be undefined. Views with a
/// unit last stride; the tables have their type. fp32 inside, rounded once.
void rotate_rows(const at::Tensor& q, const at::Tensor& k, const Rotary& rotary, bool inverse);

std::vector<KernelInfo> rotary_kernels();

}  // namespace moelora::nn::kernels
