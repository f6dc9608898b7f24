#pragma once
// The low-rank part of an adapted linear on a device, for the few rows of a decoding step. The CPU's twin:
// nn/few_rows.h; the reference: MoeLoraLinear::forward_reference.

#include <vector>

#include "nn/kernels/cuda/code/few_rows.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// Whether add_few_rows takes x [rows, d_in]: few rows of a device with kernels, and no wider rank than they hold.
bool takes_few_rows(const at::Tensor& x, std::int64_t rank);

/// y += s · (g ⊙ (x A^T)) B^T in two launches, without gradients. x [rows, d_in] and y [rows, d_out] of one dtype, A
/// [r, d_in] and B [d_out, r] fp32, omega [n, N] fp32 (N divides r; undefined: g is 1), omega_of_row [rows] int64. y is
/// contiguous; sums are fp32, and y is rounded once more.
void add_few_rows(const at::Tensor& y, const at::Tensor& x, const at::Tensor& A, const at::Tensor& B,
                  const at::Tensor& omega, const at::Tensor& omega_of_row, double scaling);

std::vector<KernelInfo> few_rows_kernels();

}  // namespace moelora::nn::kernels
