#pragma once
// round(source + B A) in one pass over a weight on a device, as kernels/cpu/fold.h does it on the CPU.

#include <ATen/core/Tensor.h>

#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// True for contiguous fp32, fp16 and bf16 matrices of one dtype on one device that has kernels.
bool folds_on_device(const at::Tensor& out, const at::Tensor& source);

/// out = round(source + B A); out and source [rows, columns] (source may be out), B [rows, r] and A [r, columns] fp32,
/// all on one device. Each sum is accumulated in fp32 in ascending order of r and rounded once. Returns [2] fp64 on the
/// device, not yet waited for: max |out - (source + B A)|, infinite where a sum is NaN or leaves the dtype's range, and
/// max |B A|; compared with the sum in fp32 for fp16 and bf16, in fp64 for fp32. Undefined without `measure`.
at::Tensor fold_on_device(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                          bool measure);

std::vector<KernelInfo> fold_kernels();

}  // namespace moelora::nn::kernels
