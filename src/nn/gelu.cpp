#include "moelora/nn/gelu.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/gelu.h"

namespace moelora::nn {
namespace {

constexpr std::int64_t kGrain = 16384;

bool is_plain_fp32(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous(); }

}  // namespace

at::Tensor gelu(const at::Tensor& x) {
  at::NoGradGuard no_grad;
  if (kernels::has_device_kernels(x) && x.is_contiguous()) {
    return kernels::gelu_on_device(x);
  }
  if (!is_plain_fp32(x)) {
    return at::gelu(x, "tanh");
  }
  at::Tensor y = at::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels::cpu_kernels().gelu_row(from + begin, to + begin, end - begin);
  });
  return y;
}

void gelu_backward_(at::Tensor& dy, const at::Tensor& x) {
  at::NoGradGuard no_grad;
  if (kernels::has_device_kernels(x) && x.is_contiguous() && dy.is_contiguous()) {
    kernels::gelu_backward_on_device_(dy, x);
    return;
  }
  if (!is_plain_fp32(x) || !is_plain_fp32(dy)) {
    dy = at::gelu_backward(dy, x, "tanh");
    return;
  }
  const auto* input = x.const_data_ptr<float>();
  auto* gradient = dy.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    kernels::cpu_kernels().gelu_backward_row(input + begin, gradient + begin, gradient + begin, end - begin);
  });
}

}  // namespace moelora::nn
