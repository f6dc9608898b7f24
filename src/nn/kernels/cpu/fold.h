#pragma once
// round(source + B A) in one pass over a weight on the CPU: the product's panel of A stays in cache, a few rows of sums
// stay in registers, and the weight is read and written once. Merging then costs about what copying the weight costs.

#include <ATen/core/Tensor.h>

#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::nn::kernels {

/// The larger of each; a NaN stays, wherever it comes from.
FoldExtremes larger_of(const FoldExtremes& a, const FoldExtremes& b);

/// True for contiguous fp32, fp16 and bf16 matrices on the CPU.
bool folds_in_one_pass(const at::Tensor& out, const at::Tensor& source);

/// out = round(source + B A); out and source [rows, columns] of one dtype (source may be out), B [rows, r] and A
/// [r, columns] fp32. Each sum is accumulated in fp32 in ascending order of r and rounded once, whatever the number of
/// threads, the block that the row falls into, and `measure`. The extremes (zeros without `measure`) compare with the
/// sum in fp32 for fp16 and bf16, in fp64 for fp32.
FoldExtremes fold_in_one_pass(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                              bool measure, const CpuKernels& kernels = cpu_kernels());

}  // namespace moelora::nn::kernels
