#include "moelora/nn/rotary.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

#include <algorithm>

#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::nn {

at::Tensor rotary_inverse_frequencies(std::int64_t half, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor exponent = at::arange(0, half, 2, options) / static_cast<double>(half);
  return (1.0 / at::pow(10000.0, exponent)).to(at::kHalf).to(at::kFloat);
}

RotaryTables rotary_axis(const at::Tensor& positions, std::int64_t half, at::ScalarType dtype) {
  // bf16 keeps 8 bits: angles of large positions would be noise, so it computes them in fp32 (as the reference does).
  const at::ScalarType angle_dtype = dtype == at::kHalf ? at::kHalf : at::kFloat;
  const at::Tensor inv_freq = rotary_inverse_frequencies(half, positions.device()).to(angle_dtype);
  const at::Tensor angles = positions.to(angle_dtype).unsqueeze(1) * inv_freq.unsqueeze(0);  // [n, half/2]
  const at::Tensor both = at::cat({angles, angles}, 1);                                      // [n, half]
  return {both.cos().to(dtype), both.sin().to(dtype)};
}

RotaryTables rotary_tables(const at::Tensor& positions, std::int64_t head_dim, at::ScalarType dtype) {
  const RotaryTables first = rotary_axis(positions[0], head_dim / 2, dtype);
  const RotaryTables second = rotary_axis(positions[1], head_dim / 2, dtype);
  return {at::cat({first.cos, second.cos}, 1), at::cat({first.sin, second.sin}, 1)};
}

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTables& tables) {
  const auto rows = x.size(0);
  const auto heads = x.size(1);
  const auto head_dim = x.size(2);
  const at::Tensor quarters = x.reshape({rows, heads, 2, 2, head_dim / 4});  // [rows, heads, axis, pair half, d/4]
  const at::Tensor rotated =
      at::cat({quarters.select(3, 1).neg().unsqueeze(3), quarters.select(3, 0).unsqueeze(3)}, 3).view(x.sizes());
  return x * tables.cos.unsqueeze(1) + rotated * tables.sin.unsqueeze(1);
}

void rotate_in_place(at::Tensor x, const RotaryTables& tables, bool inverse) {
  at::NoGradGuard no_grad;
  if (!x.is_cpu() || x.scalar_type() != at::kFloat || x.stride(2) != 1) {
    x.copy_(apply_rotary(x, inverse ? RotaryTables{tables.cos, -tables.sin} : tables));
    return;
  }
  const auto heads = x.size(1);
  const auto width = x.size(2);
  auto* data = x.mutable_data_ptr<float>();
  const auto* cos = tables.cos.const_data_ptr<float>();
  const auto* sin = tables.sin.const_data_ptr<float>();
  at::parallel_for(0, x.size(0), std::max<std::int64_t>(1, 16384 / (heads * width)),
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t row = begin; row < end; ++row) {
                       for (std::int64_t head = 0; head < heads; ++head) {
                         kernels::cpu_kernels().rotate_row(data + row * x.stride(0) + head * x.stride(1),
                                                           cos + row * width, sin + row * width, width, inverse);
                       }
                     }
                   });
}

}  // namespace moelora::nn
