#include "adapter/core/moe_lora_inference.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include "moelora/nn/few_rows.h"
#include "nn/kernels/cuda/few_rows.h"

namespace moelora {
namespace {

// Without gradients of anything.
bool supports_device_kernels(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& A,
                             const at::Tensor& omega) {
  return !c10::GradMode::is_enabled() && nn::kernels::takes_few_rows(x, A.size(0)) &&
         weight.dtype() == x.scalar_type() && weight.device() == x.device() && A.device() == x.device() &&
         (!omega.defined() || omega.device() == x.device());
}

}  // namespace

bool supports_few_rows_adapted(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                               const at::Tensor& A, const at::Tensor& B, const at::Tensor& omega) {
  if (A.scalar_type() != at::kFloat || B.scalar_type() != at::kFloat || !B.is_contiguous()) {
    return false;
  }
  return supports_device_kernels(x, weight, A, omega) ||
         (weight.supports_few_rows(x, bias) && nn::supports_few_rows(x, A) &&
          !(c10::GradMode::is_enabled() && (B.requires_grad() || (omega.defined() && omega.requires_grad()))));
}

at::Tensor few_rows_down(const at::Tensor& x, const at::Tensor& A, const at::Tensor& omega_of_row) {
  return x.is_cpu() ? nn::few_rows_product(x, A, {}, {}, {}, at::kFloat)
                    : nn::kernels::few_rows_down(x, A, {}, omega_of_row, 1.0);
}

at::Tensor few_rows_up(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias, const at::Tensor& v,
                       const at::Tensor& B) {
  if (x.is_cpu() || weight.supports_few_rows(x, bias)) {
    return weight.few_rows(x, bias, v, B);
  }
  at::Tensor y = weight.forward(x, bias);
  nn::kernels::add_few_rows(y, v, B);
  return y;
}

at::Tensor few_rows_adapted(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                            const at::Tensor& A, const at::Tensor& B, const at::Tensor& omega,
                            const at::Tensor& omega_of_row, double scaling,
                            const std::vector<std::int64_t>& only_expert) {
  if (!x.is_cpu()) {
    return few_rows_up(x, weight, bias, nn::kernels::few_rows_down(x, A, omega, omega_of_row, scaling), B);
  }
  const auto* place = omega_of_row.const_data_ptr<std::int64_t>();
  if (!only_expert.empty()) {
    const auto width = A.size(0) / omega.size(1);
    std::vector<std::int64_t> columns(static_cast<std::size_t>(x.size(0)));
    for (std::size_t row = 0; row < columns.size(); ++row) {
      columns[row] = only_expert[static_cast<std::size_t>(place[row])] * width;
    }
    const at::Tensor v = nn::few_rows_own_product(x, A, columns, width);
    auto* numbers = v.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < v.numel(); ++i) {
      numbers[i] = static_cast<float>(numbers[i] * scaling);
    }
    return weight.few_rows(x, bias, v, B, columns);
  }
  const at::Tensor v = few_rows_down(x, A, omega_of_row);  // u = A x; weighed in place
  const auto rank = v.size(1);
  const auto share = omega.defined() ? rank / omega.size(1) : rank;
  float* row = v.mutable_data_ptr<float>();
  for (std::int64_t i = 0; i < v.size(0); ++i, row += rank) {
    const float* weights = omega.defined() ? omega.const_data_ptr<float>() + place[i] * omega.stride(0) : nullptr;
    for (std::int64_t c = 0; c < rank; ++c) {
      row[c] *= static_cast<float>(weights != nullptr ? weights[c / share] * scaling : scaling);
    }
  }
  return weight.few_rows(x, bias, v, B);
}

}  // namespace moelora
