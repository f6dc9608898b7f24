#pragma once
// Linears of the few rows of a decoding step on a device, without gradients. The CPU's twin: nn/few_rows.h; the
// reference of the low-rank part: MoeLoraLinear::forward_reference.

#include <vector>

#include "nn/kernels/cuda/code/few_rows.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// Whether few_rows_product takes x [rows, d_in] and weight [d_out, d_in]: up to kRowsAtOnce rows of a device with
/// kernels, both of one type. More rows are LibTorch's.
bool takes_few_rows_product(const at::Tensor& x, const at::Tensor& weight);
/// Whether the two functions of the low-rank part take x [rows, d_in]: up to 64 rows of a device with kernels, and no
/// higher rank than they hold.
bool takes_few_rows(const at::Tensor& x, std::int64_t rank);

/// x W^T + bias + v B^T in one launch and one pass over W. bias [d_out] of x's type or undefined; v [rows, r] and B
/// [d_out, r] fp32, or both undefined. Sums are fp32 and y [rows, d_out] is rounded once; a row's bits do not depend on
/// the other rows.
at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& v = {}, const at::Tensor& B = {});

/// v = s · g ⊙ (x A^T), [rows, r] fp32, in one launch. A [r, d_in] fp32, omega [n, N] fp32 (N divides r; undefined: g
/// is 1), omega_of_row [rows] int64.
at::Tensor few_rows_down(const at::Tensor& x, const at::Tensor& A, const at::Tensor& omega,
                         const at::Tensor& omega_of_row, double scaling);
/// y += v B^T in one launch; y [rows, d_out] contiguous, rounded once more.
void add_few_rows(const at::Tensor& y, const at::Tensor& v, const at::Tensor& B);

std::vector<KernelInfo> few_rows_kernels();

}  // namespace moelora::nn::kernels
