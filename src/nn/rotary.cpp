#include "moelora/nn/rotary.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <vector>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/rotary.h"
#include "nn/turned_head.h"

namespace moelora::nn {
namespace {

// (a, b) → (-b, a) for each pair of all columns of x [rows, heads, d].
at::Tensor quarter_turn(const at::Tensor& x, RotaryPairing pairing) {
  const auto rows = x.size(0);
  const auto heads = x.size(1);
  const auto d = x.size(2);
  if (pairing == RotaryPairing::interleaved) {
    const at::Tensor pairs = x.reshape({rows, heads, d / 2, 2});
    return at::stack({pairs.select(3, 1).neg(), pairs.select(3, 0)}, 3).view(x.sizes());
  }
  const std::int64_t block = Pairs(pairing, d).block;
  const at::Tensor halves = x.reshape({rows, heads, d / block, 2, block / 2});  // [rows, heads, block, half, pair]
  return at::cat({halves.select(3, 1).neg().unsqueeze(3), halves.select(3, 0).unsqueeze(3)}, 3).view(x.sizes());
}

bool has_device_kernel(const at::Tensor& x, const Rotary& rotary) {
  return kernels::has_device_kernels(x) && x.stride(2) == 1 && rotary.tables.cos.scalar_type() == x.scalar_type();
}

// Heads that a thread takes at a time.
std::int64_t grain_of(std::int64_t width) { return std::max<std::int64_t>(1, 16384 / width); }

}  // namespace

at::Tensor rotary_frequencies(std::int64_t d, double theta, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  const at::Tensor exponent = at::arange(0, d, 2, options) / static_cast<double>(d);
  return 1.0 / at::pow(theta, exponent);
}

at::Tensor rotary_angles(const at::Tensor& positions, const at::Tensor& frequencies, at::ScalarType dtype) {
  return positions.to(dtype).unsqueeze(1) * frequencies.to(positions.device(), dtype).unsqueeze(0);
}

Rotary make_rotary(const at::Tensor& positions, const at::Tensor& frequencies, RotaryPairing pairing,
                   at::ScalarType dtype, at::ScalarType angle_dtype) {
  TORCH_INTERNAL_ASSERT(positions.dim() == 2 && positions.size(0) == (pairing == RotaryPairing::two_axes ? 2 : 1));
  std::vector<at::Tensor> cos, sin;  // of each axis
  for (std::int64_t axis = 0; axis < positions.size(0); ++axis) {
    const at::Tensor angles = rotary_angles(positions[axis], frequencies, angle_dtype);
    const at::Tensor of_columns =
        pairing == RotaryPairing::interleaved ? angles.repeat_interleave(2, 1) : at::cat({angles, angles}, 1);
    cos.push_back(of_columns.cos().to(dtype));
    sin.push_back(of_columns.sin().to(dtype));
  }
  return {{at::cat(cos, 1), at::cat(sin, 1)}, pairing};
}

at::Tensor apply_rotary(const at::Tensor& x, const Rotary& rotary) {
  const auto d = rotary.rotary_dim();
  const auto rest = x.size(2) - d;
  const at::Tensor turning = rest == 0 ? x : x.narrow(2, 0, d);
  const at::Tensor turned =
      turning * rotary.tables.cos.unsqueeze(1) + quarter_turn(turning, rotary.pairing) * rotary.tables.sin.unsqueeze(1);
  return rest == 0 ? turned : at::cat({turned, x.narrow(2, d, rest)}, 2);
}

void rotate_in_place(at::Tensor x, const Rotary& rotary, bool inverse) {
  at::NoGradGuard no_grad;
  if (has_device_kernel(x, rotary)) {
    kernels::rotate_rows(x, {}, rotary, inverse);
    return;
  }
  const RotaryTables& tables = rotary.tables;
  const auto d = rotary.rotary_dim();
  if (!x.is_cpu() || x.scalar_type() != at::kFloat || x.stride(2) != 1) {
    const at::Tensor turning = x.narrow(2, 0, d);
    turning.copy_(apply_rotary(turning, inverse ? Rotary{{tables.cos, -tables.sin}, rotary.pairing} : rotary));
    return;
  }
  const auto heads = x.size(1);
  const Pairs pairs(rotary.pairing, d);
  auto* data = x.mutable_data_ptr<float>();
  const auto* cos = tables.cos.const_data_ptr<float>();
  const auto* sin = tables.sin.const_data_ptr<float>();
  at::parallel_for(0, x.size(0) * heads, grain_of(d), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t row = task / heads;
      float* head = data + row * x.stride(0) + task % heads * x.stride(1);
      if (rotary.pairing == RotaryPairing::two_axes) {
        kernels::cpu_kernels().rotate_row(head, cos + row * d, sin + row * d, d, inverse);
      } else if (rotary.pairing == RotaryPairing::half) {
        kernels::cpu_kernels().rotate_halves_row(head, cos + row * d, sin + row * d, d, inverse);
      } else {
        turn_head(head, cos + row * d, sin + row * d, pairs, d, inverse ? -1.0f : 1.0f, head);
      }
    }
  });
}

void rotate_in_place(const at::Tensor& q, const at::Tensor& k, const Rotary& rotary, bool inverse) {
  if (has_device_kernel(q, rotary) && has_device_kernel(k, rotary)) {
    at::NoGradGuard no_grad;
    kernels::rotate_rows(q, k, rotary, inverse);
    return;
  }
  rotate_in_place(q, rotary, inverse);
  rotate_in_place(k, rotary, inverse);
}

at::Tensor rotated_in_float(const at::Tensor& x, const Rotary& rotary) {
  at::NoGradGuard no_grad;
  const Rotary exact = rotary.to(at::kFloat);
  if (!x.is_cpu() || x.stride(2) != 1) {
    return apply_rotary(x.to(at::kFloat), exact);
  }
  const auto heads = x.size(1);
  const auto width = x.size(2);
  const TurnedHead turned(exact, width);
  at::Tensor result = at::empty(x.sizes(), x.options().dtype(at::kFloat));
  auto* out = result.mutable_data_ptr<float>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "rotated_in_float", [&] {
    const auto* data = x.const_data_ptr<scalar_t>();
    at::parallel_for(0, x.size(0) * heads, grain_of(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t row = task / heads;
        turned(row, data + row * x.stride(0) + task % heads * x.stride(1), out + task * width);
      }
    });
  });
  return result;
}

}  // namespace moelora::nn
