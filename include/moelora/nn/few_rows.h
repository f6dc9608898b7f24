#pragma once
// Products of a few rows with a weight, as decoding has them: the time is that of reading the weight once from memory.
// Sums are fp32 whatever the dtypes, and a row's result does not depend on the other rows or on the number of threads.

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace moelora::nn {

/// Whether few_rows_product takes these and is faster than at::linear: on a CPU or a device with kernels, few rows,
/// fp32, fp16 or bf16 (on a device all of one type), weight contiguous, and no gradient wanted (grad mode off, or none
/// of them needs one).
bool supports_few_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});
/// The same of `rows` contiguous rows on the CPU in one of those types, where no gradient is wanted.
bool supports_few_rows(std::int64_t rows, const at::Tensor& weight);

/// x W^T + v B^T + bias. x [rows, d_in], weight [d_out, d_in], bias [d_out] or undefined; v [rows, r] and b [d_out, r]
/// fp32, or both undefined. `columns`: for each row the first of the r columns of b that its v goes with, where b has
/// more of them (several stacked factors); empty: b has r columns. Dtypes of x, weight and bias may differ. Returns
/// [rows, d_out] in x's dtype or in `dtype`. On a device: no `columns`, and one dtype.
at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& v = {}, const at::Tensor& b = {},
                            std::optional<at::ScalarType> dtype = {}, const std::vector<std::int64_t>& columns = {});

struct WeightAndBias {
  at::Tensor weight;  ///< [d_out, d_in]
  at::Tensor bias;    ///< [d_out] or undefined
};
/// few_rows_product of the same rows with several weights of one d_in, by one run of the threads. On a CPU.
std::vector<at::Tensor> few_rows_products(const at::Tensor& x, const std::vector<WeightAndBias>& weights);

/// Each row of x with its own rows of the weight: first_rows[i], … (count of them) for row i. Returns [rows, count]
/// fp32. On a CPU.
at::Tensor few_rows_own_product(const at::Tensor& x, const at::Tensor& weight,
                                const std::vector<std::int64_t>& first_rows, std::int64_t count);

}  // namespace moelora::nn
