#include "moelora/nn/row_source.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <cstring>

#include "moelora/nn/gelu.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/layer_norm.h"

namespace moelora::nn {

void RowSource::some_with_derivative(std::int64_t, std::int64_t, float*, float*) const {
  TORCH_INTERNAL_ASSERT(false, "these rows are not an elementwise function");
}

void RowSource::multiply_by_derivative(at::Tensor&) const {
  TORCH_INTERNAL_ASSERT(false, "these rows are not an elementwise function");
}

RowRecipe RowSource::recipe() const { return {RowRecipe::Function::stored, all().contiguous(), {}, {}, {}, {}}; }

void StoredRows::some(std::int64_t begin, std::int64_t count, float* out) const {
  const auto width = rows_.size(1);
  std::memcpy(out, rows_.const_data_ptr<float>() + begin * width,
              static_cast<std::size_t>(count * width) * sizeof *out);
}

NormalisedRows::NormalisedRows(at::Tensor x, at::Tensor mean, at::Tensor rstd, at::Tensor weight, at::Tensor bias)
    : x_(std::move(x)),
      mean_(std::move(mean)),
      rstd_(std::move(rstd)),
      weight_(std::move(weight)),
      bias_(std::move(bias)) {}

at::Tensor NormalisedRows::all() const {
  at::NoGradGuard no_grad;
  if (kernels::has_norm_kernels(x_, weight_, bias_) && mean_.scalar_type() == at::kFloat) {
    return kernels::normalise_again(x_, mean_, rstd_, weight_, bias_);
  }
  const auto type = rstd_.scalar_type();  // fp32 where x has less
  return ((x_.to(type) - mean_) * rstd_ * weight_ + bias_).to(x_.scalar_type());
}

void NormalisedRows::some(std::int64_t begin, std::int64_t count, float* out) const {
  const auto width = x_.size(1);
  const auto* mean = mean_.const_data_ptr<float>();
  const auto* rstd = rstd_.const_data_ptr<float>();
  const auto* x = x_.const_data_ptr<float>();
  for (std::int64_t row = begin; row < begin + count; ++row, out += width) {
    kernels::cpu_kernels().normalise_row(x + row * width, mean[row], rstd[row], weight_.const_data_ptr<float>(),
                                         bias_.const_data_ptr<float>(), out, width);
  }
}

RowRecipe NormalisedRows::recipe() const {
  const auto type = x_.scalar_type();
  const bool fits = x_.is_contiguous() && mean_.is_contiguous() && rstd_.is_contiguous() &&
                    mean_.scalar_type() == at::kFloat && rstd_.scalar_type() == at::kFloat &&
                    weight_.scalar_type() == type && bias_.scalar_type() == type && weight_.is_contiguous() &&
                    bias_.is_contiguous();
  return fits ? RowRecipe{RowRecipe::Function::normalised, x_, mean_, rstd_, weight_, bias_} : RowSource::recipe();
}

at::Tensor GeluRows::all() const { return nn::gelu(x_); }

void GeluRows::some(std::int64_t begin, std::int64_t count, float* out) const {
  const auto width = x_.size(1);
  kernels::cpu_kernels().gelu_row(x_.const_data_ptr<float>() + begin * width, out, count * width);
}

void GeluRows::some_with_derivative(std::int64_t begin, std::int64_t count, float* out, float* derivative) const {
  const auto width = x_.size(1);
  kernels::cpu_kernels().gelu_derivative_row(x_.const_data_ptr<float>() + begin * width, out, derivative,
                                             count * width);
}

void GeluRows::multiply_by_derivative(at::Tensor& dx) const { gelu_backward_(dx, x_); }

}  // namespace moelora::nn
