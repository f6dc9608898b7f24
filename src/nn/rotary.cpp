#include "moelora/nn/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>

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

}  // namespace moelora::nn
