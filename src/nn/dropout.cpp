#include "moelora/nn/dropout.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>

#include "moelora/io/error.h"
#include "moelora/io/splitmix64.h"
#include "nn/dropout_mask.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cuda/dropout.h"

namespace moelora::nn {
namespace {

template <typename scalar>
void drop_row(const scalar* x, scalar* y, std::int64_t width, const DropoutMask& mask, std::uint64_t key) {
  constexpr std::int64_t kBlock = 256;
  float block[kBlock];
  for (std::int64_t begin = 0; begin < width; begin += kBlock) {
    const auto count = std::min(kBlock, width - begin);
    for (std::int64_t c = 0; c < count; ++c) {
      block[c] = static_cast<float>(x[begin + c]);
    }
    kernels::cpu_kernels().drop_row(block, block, begin, count, key, mask.threshold, mask.scale);
    for (std::int64_t c = 0; c < count; ++c) {
      y[begin + c] = static_cast<scalar>(block[c]);
    }
  }
}

template <>
void drop_row<float>(const float* x, float* y, std::int64_t width, const DropoutMask& mask, std::uint64_t key) {
  kernels::cpu_kernels().drop_row(x, y, 0, width, key, mask.threshold, mask.scale);
}

// The same bits by tensor operations, for devices that have no kernel of their own. int64 holds the 32-bit products.
at::Tensor keep_mask(const at::Tensor& keys, std::int64_t width, std::uint32_t threshold) {
  const std::int64_t ones = 0xffffffffll;
  const at::Tensor low = keys.bitwise_and(ones).unsqueeze(1);
  const at::Tensor high = keys.bitwise_right_shift(32).bitwise_and(ones).unsqueeze(1);
  const at::Tensor columns = at::arange(width, keys.options()) * at::Scalar(std::int64_t{0x9e3779b9ll});
  at::Tensor h = (low + columns.unsqueeze(0)).bitwise_and(ones).bitwise_xor(high);
  h = (h.bitwise_xor(h.bitwise_right_shift(16)) * at::Scalar(std::int64_t{0x7feb352dll})).bitwise_and(ones);
  h = (h.bitwise_xor(h.bitwise_right_shift(15)) * at::Scalar(std::int64_t{0x846ca68bll})).bitwise_and(ones);
  h = h.bitwise_xor(h.bitwise_right_shift(16));
  return h.ge(static_cast<std::int64_t>(threshold));
}

}  // namespace

std::uint64_t dropout_stem(std::uint64_t seed, std::uint64_t linear) {
  return io::splitmix(io::splitmix(seed) ^ linear);
}

std::uint32_t dropout_threshold(double p) { return static_cast<std::uint32_t>(p * 4294967296.0); }

float dropout_scale(double p) { return static_cast<float>(1.0 / (1.0 - p)); }

DropoutMask dropout_mask(double p, std::uint64_t linear, const RowContext& context) {
  MOELORA_CHECK(p >= 0.0 && p < 1.0, "dropout must lie in [0, 1), found ", p);
  DropoutMask mask;
  if (p == 0.0 || !context.dropout.active()) {
    return mask;
  }
  const at::Tensor segments = context.segment_of_row.cpu();
  const at::Tensor positions = context.row_in_segment.cpu();
  const auto* segment = segments.const_data_ptr<std::int64_t>();
  const auto* position = positions.const_data_ptr<std::int64_t>();
  const auto& dropout = context.dropout;
  const std::uint64_t stem = dropout_stem(dropout.seed, linear);
  mask.keys.resize(static_cast<std::size_t>(context.rows()));
  for (std::int64_t row = 0; row < context.rows(); ++row) {
    const std::uint64_t sample = io::splitmix(stem ^ static_cast<std::uint64_t>(dropout.draws[segment[row]]));
    mask.keys[row] = io::splitmix(sample ^ static_cast<std::uint64_t>(position[row]));
  }
  mask.threshold = dropout_threshold(p);
  mask.scale = dropout_scale(p);
  return mask;
}

at::Tensor keyed_dropout_keep_mask(std::int64_t width, double p, std::uint64_t linear, const RowContext& context) {
  const DropoutMask mask = dropout_mask(p, linear, context);
  at::Tensor keys = at::empty({context.rows()}, at::kLong);
  std::copy(mask.keys.begin(), mask.keys.end(), keys.mutable_data_ptr<std::int64_t>());
  return keep_mask(keys.to(context.segment_of_row.device()), width, mask.threshold);
}

at::Tensor apply_keyed_dropout(const at::Tensor& x, double p, std::uint64_t linear, const RowContext& context) {
  if (p == 0.0 || !context.dropout.active()) {
    return x;
  }
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.size(0) == context.rows());
  if (kernels::has_device_kernels(x)) {
    return kernels::drop_rows(x, kernels::device_mask(p, linear, context));
  }
  const auto rows = x.size(0);
  const auto width = x.size(1);
  if (!x.is_cpu()) {
    // The scale in fp32: 1 / 0.9 rounded to fp16 would be 1.1113.
    const at::Tensor keep = keyed_dropout_keep_mask(width, p, linear, context);
    return (x.to(at::kFloat) * dropout_scale(p) * keep).to(x.scalar_type());
  }
  const DropoutMask mask = dropout_mask(p, linear, context);
  const at::Tensor input = x.contiguous();
  at::Tensor output = at::empty_like(input);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "keyed_dropout", [&] {
    const auto* from = input.const_data_ptr<scalar_t>();
    auto* to = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, std::max<std::int64_t>(1, 32768 / width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        drop_row<scalar_t>(from + row * width, to + row * width, width, mask, mask.keys[row]);
      }
    });
  });
  return output;
}

}  // namespace moelora::nn
