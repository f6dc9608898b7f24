#pragma once
// The adapted linear without gradients for a few rows, as decoding has them.

#include <cstdint>
#include <vector>

#include "moelora/nn/frozen_weight.h"

namespace moelora {

/// Whether few_rows_adapted takes these: what nn::supports_few_rows says, fp32 A and B, and no gradient wanted for them
/// or for ω (undefined: none). On a device with kernels: rows that these take, and gradients off.
bool supports_few_rows_adapted(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                               const at::Tensor& A, const at::Tensor& B, const at::Tensor& omega = {});

/// x W^T + bias + s · B (g ⊙ (A x)), A and B in fp32 whatever x's dtype. omega [n, N] fp32, undefined for one expert;
/// omega_of_row [rows] int64: which of its rows each row takes. Two passes: A x, then the weight with B beside it. No
/// dropout. `only_expert` [n]: the only expert of each row of omega, whose slices of A and B are all that is multiplied
/// then; empty: omega says how much of each (on a device always).
at::Tensor few_rows_adapted(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                            const at::Tensor& A, const at::Tensor& B, const at::Tensor& omega,
                            const at::Tensor& omega_of_row, double scaling,
                            const std::vector<std::int64_t>& only_expert = {});

/// Its halves, for updates with something else between A and B: A x [rows, r] fp32 (`omega_of_row` [rows] int64 is what
/// a device's kernel reads) …
at::Tensor few_rows_down(const at::Tensor& x, const at::Tensor& A, const at::Tensor& omega_of_row);
/// … and x W^T + bias + v B^T, v [rows, r] fp32.
at::Tensor few_rows_up(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias, const at::Tensor& v,
                       const at::Tensor& B);

}  // namespace moelora
