#include "moelora/nn/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>

#include <algorithm>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/gelu.h"

namespace moelora::nn {
namespace {

bool is_rows(const at::Tensor& x) { return x.dim() == 2 && (x.size(1) <= 1 || x.stride(1) == 1); }
bool has_cpu_kernel(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat && is_rows(x); }

// use(row) for each row, on several threads.
template <typename Use>
void for_gated_rows(const at::Tensor& x, const Use& use) {
  const auto grain = std::max<std::int64_t>(1, 8192 / std::max<std::int64_t>(x.size(1), 1));
  at::parallel_for(0, x.size(0), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      use(row);
    }
  });
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  at::NoGradGuard no_grad;
  if (kernels::has_device_kernels(gate) && is_rows(gate) && is_rows(up)) {
    return kernels::swiglu_on_device(gate, up);
  }
  if (!has_cpu_kernel(gate) || !has_cpu_kernel(up)) {
    return at::silu(gate) * up;
  }
  const auto width = gate.size(1);
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  const auto* g = gate.const_data_ptr<float>();
  const auto* u = up.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  for_gated_rows(gate, [&](std::int64_t row) {
    kernels::cpu_kernels().swiglu_row(g + row * gate.stride(0), u + row * up.stride(0), to + row * width, width);
  });
  return y;
}

void swiglu_backward(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up, at::Tensor dgate,
                     at::Tensor dup) {
  at::NoGradGuard no_grad;
  if (kernels::has_device_kernels(gate) && is_rows(gate) && is_rows(up) && is_rows(dgate) && is_rows(dup) &&
      dy.is_contiguous()) {
    kernels::swiglu_backward_on_device(dy, gate, up, dgate, dup);
    return;
  }
  if (!has_cpu_kernel(gate) || !has_cpu_kernel(up) || !has_cpu_kernel(dgate) || !has_cpu_kernel(dup) ||
      !dy.is_contiguous()) {
    const at::Tensor s = at::sigmoid(gate);
    dgate.copy_(dy * up * (s * (1.0 + gate * (1.0 - s))));
    dup.copy_(dy * (gate * s));  // last: it may be dy
    return;
  }
  const auto width = gate.size(1);
  const auto* g = gate.const_data_ptr<float>();
  const auto* u = up.const_data_ptr<float>();
  const auto* gradient = dy.const_data_ptr<float>();
  auto* to_gate = dgate.mutable_data_ptr<float>();
  auto* to_up = dup.mutable_data_ptr<float>();
  for_gated_rows(gate, [&](std::int64_t row) {
    kernels::cpu_kernels().swiglu_backward_row(g + row * gate.stride(0), u + row * up.stride(0), gradient + row * width,
                                               to_gate + row * dgate.stride(0), to_up + row * dup.stride(0), width);
  });
}

GateAndUp gate_and_up(const at::Tensor& fused) {
  TORCH_INTERNAL_ASSERT(fused.dim() == 2 && fused.size(1) % 2 == 0);
  const auto width = fused.size(1) / 2;
  return {fused.narrow(1, 0, width), fused.narrow(1, width, width)};
}

}  // namespace moelora::nn
