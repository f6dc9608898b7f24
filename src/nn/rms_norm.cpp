#include "moelora/nn/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>

#include <algorithm>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/rms_norm.h"
#include "nn/rms_norm_row.h"

namespace moelora::nn {
namespace {

at::ScalarType computed_in(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor reciprocal_deviation(const at::Tensor& x, double epsilon) {
  return at::rsqrt(x.to(computed_in(x)).square().mean(-1, /*keepdim=*/true) + epsilon);
}

at::Tensor scaled(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight) {
  return weight * (x.to(rstd.scalar_type()) * rstd).to(x.scalar_type());
}

bool has_cpu_kernel(const at::Tensor& x, const at::Tensor& weight) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && x.is_contiguous() &&
         weight.is_contiguous();
}

// use(row) for each row, on several threads.
template <typename Use>
void for_rows(const at::Tensor& x, const Use& use) {
  const auto grain = std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(x.size(1), 1));
  at::parallel_for(0, x.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      use(row);
    }
  });
}

// By the CPU's kernels. x := x + residual where that is defined.
RmsNormResult by_rows(const RmsNormImpl& norm, const at::Tensor& x, const at::Tensor& residual) {
  const auto width = x.size(1);
  RmsNormResult result{at::empty_like(x), at::empty({x.size(0), 1}, x.options())};
  const auto* weight = norm.weight.const_data_ptr<float>();
  const auto epsilon = static_cast<float>(norm.epsilon());
  const auto* added = residual.defined() ? residual.const_data_ptr<float>() : nullptr;
  auto* rows = added != nullptr ? x.mutable_data_ptr<float>() : const_cast<float*>(x.const_data_ptr<float>());
  auto* y = result.y.mutable_data_ptr<float>();
  auto* rstd = result.rstd.mutable_data_ptr<float>();
  for_rows(x, [&](std::int64_t row) {
    const auto at = row * width;
    rstd[row] = rms_norm_row(rows + at, added != nullptr ? added + at : nullptr, weight, epsilon, y + at, width);
  });
  return result;
}

}  // namespace

RmsNormImpl::RmsNormImpl(at::Tensor given_weight, double epsilon) : width_(given_weight.size(0)), epsilon_(epsilon) {
  weight = register_parameter("weight", std::move(given_weight));
}

void RmsNormImpl::reset() { weight = register_parameter("weight", at::ones({width_})); }

at::Tensor RmsNormImpl::forward(const at::Tensor& x) { return scaled(x, reciprocal_deviation(x, epsilon_), weight); }

RmsNormResult rms_norm_forward(const RmsNormImpl& norm, const at::Tensor& x) {
  at::NoGradGuard no_grad;
  if (kernels::has_rms_norm_kernels(x, norm.weight)) {
    auto [y, rstd] = kernels::add_and_rms_normalise(x, {}, norm.weight, norm.epsilon());
    return {std::move(y), std::move(rstd)};
  }
  if (has_cpu_kernel(x, norm.weight)) {
    return by_rows(norm, x, {});
  }
  at::Tensor rstd = reciprocal_deviation(x, norm.epsilon());
  at::Tensor y = scaled(x, rstd, norm.weight);
  return {std::move(y), std::move(rstd)};
}

RmsNormResult add_then_rms_norm(const RmsNormImpl& norm, at::Tensor& x, const at::Tensor& residual) {
  at::NoGradGuard no_grad;
  if (kernels::has_rms_norm_kernels(x, norm.weight)) {
    auto [y, rstd] = kernels::add_and_rms_normalise(x, residual.contiguous(), norm.weight, norm.epsilon());
    return {std::move(y), std::move(rstd)};
  }
  if (has_cpu_kernel(x, norm.weight) && residual.scalar_type() == at::kFloat) {
    return by_rows(norm, x, residual.contiguous());
  }
  x.add_(residual);
  return rms_norm_forward(norm, x);
}

at::Tensor rms_norm_again(const RmsNormImpl& norm, const at::Tensor& x, const at::Tensor& rstd) {
  at::NoGradGuard no_grad;
  if (kernels::has_rms_norm_kernels(x, norm.weight) && rstd.scalar_type() == at::kFloat) {
    return kernels::rms_normalise_again(x, rstd, norm.weight);
  }
  if (has_cpu_kernel(x, norm.weight)) {
    const auto width = x.size(1);
    at::Tensor y = at::empty_like(x);
    const auto* from = x.const_data_ptr<float>();
    const auto* weight = norm.weight.const_data_ptr<float>();
    const auto* statistic = rstd.const_data_ptr<float>();
    auto* to = y.mutable_data_ptr<float>();
    for_rows(x, [&](std::int64_t row) {
      kernels::cpu_kernels().rms_normalise_row(from + row * width, statistic[row], weight, to + row * width, width);
    });
    return y;
  }
  return scaled(x, rstd, norm.weight);
}

at::Tensor rms_norm_backward(const RmsNormImpl& norm, at::Tensor& dy, const at::Tensor& dresidual, const at::Tensor& x,
                             const at::Tensor& rstd) {
  at::NoGradGuard no_grad;
  const at::Tensor added = dresidual.defined() ? dresidual.contiguous() : dresidual;
  if (kernels::has_rms_norm_kernels(x, norm.weight) && dy.is_contiguous() && rstd.scalar_type() == at::kFloat) {
    kernels::rms_normalise_backward_(dy, added, x, rstd, norm.weight);
    return dy;
  }
  if (has_cpu_kernel(x, norm.weight) && dy.is_contiguous() && dy.scalar_type() == at::kFloat) {
    const auto width = x.size(1);
    const auto* weight = norm.weight.const_data_ptr<float>();
    const auto* rows = x.const_data_ptr<float>();
    const auto* statistic = rstd.const_data_ptr<float>();
    const auto* residual = added.defined() ? added.const_data_ptr<float>() : nullptr;
    auto* gradient = dy.mutable_data_ptr<float>();
    for_rows(x, [&](std::int64_t row) {
      const auto at = row * width;
      kernels::cpu_kernels().rms_normalise_backward_row(
          rows + at, statistic[row], weight, residual != nullptr ? residual + at : nullptr, gradient + at, width);
    });
    return dy;
  }
  const auto type = rstd.scalar_type();
  const at::Tensor g = dy.to(type) * norm.weight.to(type);
  const at::Tensor rows = x.to(type);
  at::Tensor dx = rstd * (g - rows * rstd * rstd * (g * rows).mean(-1, /*keepdim=*/true));
  if (added.defined()) {
    dx.add_(added);
  }
  return dx.to(x.scalar_type());
}

}  // namespace moelora::nn
