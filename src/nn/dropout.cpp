#include "moelora/nn/dropout.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "moelora/io/error.h"

// The hot loop is plain C++ that compilers vectorise when they may use the machine's widest registers.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define MOELORA_WIDEST __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define MOELORA_WIDEST
#endif

namespace moelora::nn {
namespace {

std::uint64_t splitmix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

std::uint64_t row_key(std::uint64_t seed, std::uint64_t linear, std::int64_t draw, std::int64_t position) {
  return splitmix(splitmix(splitmix(splitmix(seed) ^ linear) ^ static_cast<std::uint64_t>(draw)) ^
                  static_cast<std::uint64_t>(position));
}

// 32 random bits of column c: the "lowbias32" finaliser (C. Wellons, hash-prospector) over a keyed counter.
inline std::uint32_t column_bits(std::uint32_t low, std::uint32_t high, std::uint32_t column) {
  std::uint32_t h = (low + column * 0x9e3779b9u) ^ high;
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

MOELORA_WIDEST void drop_row_fp32(const float* x, float* y, std::int64_t width, std::uint64_t key,
                                  std::uint32_t threshold, float scale) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
  for (std::int64_t c = 0; c < width; ++c) {
    const float keep = column_bits(low, high, static_cast<std::uint32_t>(c)) >= threshold ? scale : 0.0f;
    y[c] = x[c] * keep;
  }
}

template <typename scalar>
void drop_row(const scalar* x, scalar* y, std::int64_t width, std::uint64_t key, std::uint32_t threshold, float scale) {
  const auto low = static_cast<std::uint32_t>(key);
  const auto high = static_cast<std::uint32_t>(key >> 32);
  for (std::int64_t c = 0; c < width; ++c) {
    const float keep = column_bits(low, high, static_cast<std::uint32_t>(c)) >= threshold ? scale : 0.0f;
    y[c] = static_cast<scalar>(static_cast<float>(x[c]) * keep);
  }
}

template <>
void drop_row<float>(const float* x, float* y, std::int64_t width, std::uint64_t key, std::uint32_t threshold,
                     float scale) {
  drop_row_fp32(x, y, width, key, threshold, scale);
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

// The key of each row, [rows] int64 on the CPU.
at::Tensor row_keys(std::uint64_t linear, const RowContext& context) {
  const at::Tensor segments = context.segment_of_row.cpu();
  const at::Tensor positions = context.row_in_segment.cpu();
  const auto* segment = segments.const_data_ptr<std::int64_t>();
  const auto* position = positions.const_data_ptr<std::int64_t>();
  at::Tensor keys = at::empty({context.rows()}, at::kLong);
  auto* data = keys.mutable_data_ptr<std::int64_t>();
  const auto& dropout = context.dropout;
  for (std::int64_t row = 0; row < context.rows(); ++row) {
    data[row] = static_cast<std::int64_t>(row_key(dropout.seed, linear, dropout.draws[segment[row]], position[row]));
  }
  return keys;
}

std::uint32_t threshold_of(double p) { return static_cast<std::uint32_t>(p * 4294967296.0); }

}  // namespace

at::Tensor keyed_dropout_keep_mask(std::int64_t width, double p, std::uint64_t linear, const RowContext& context) {
  return keep_mask(row_keys(linear, context).to(context.segment_of_row.device()), width, threshold_of(p));
}

at::Tensor apply_keyed_dropout(const at::Tensor& x, double p, std::uint64_t linear, const RowContext& context) {
  MOELORA_CHECK(p >= 0.0 && p < 1.0, "dropout must lie in [0, 1), found ", p);
  if (p == 0.0 || !context.dropout.active()) {
    return x;
  }
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.size(0) == context.rows());
  const auto rows = x.size(0);
  const auto width = x.size(1);
  const auto scale = static_cast<float>(1.0 / (1.0 - p));
  if (!x.is_cpu()) {
    return x * (keyed_dropout_keep_mask(width, p, linear, context).to(x.scalar_type()) * scale);
  }
  const at::Tensor keys = row_keys(linear, context);
  const auto* key = keys.const_data_ptr<std::int64_t>();
  const at::Tensor input = x.contiguous();
  at::Tensor output = at::empty_like(input);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "keyed_dropout", [&] {
    const auto* from = input.const_data_ptr<scalar_t>();
    auto* to = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, rows, std::max<std::int64_t>(1, 32768 / width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        drop_row<scalar_t>(from + row * width, to + row * width, width, static_cast<std::uint64_t>(key[row]),
                           threshold_of(p), scale);
      }
    });
  });
  return output;
}

}  // namespace moelora::nn
