#include "nn/kernels/cpu/decode_attention.h"

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/dot_products.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

// e^x for x <= 0: x = n ln 2 + f with |f| <= ln(2)/2, Taylor's series of e^f to the 7th power (error below 1 ulp of
// fp32), times 2^n. Below -87 the result is e^-87, which no fp32 sum of such terms with a 1 among them notices.
MOELORA_INLINE Vector exponential(Vector x) {
  const Vector lowest = broadcast(-87.0f);
  x = x < lowest ? lowest : x;
  const Vector shift = broadcast(12582912.0f);  // 1.5 · 2^23: the integer part falls into the lowest bits
  const Vector shifted = multiply_add(x, broadcast(1.44269504f), shift);
  const Vector n = shifted - shift;
  const Vector f = multiply_add(-n, broadcast(1.42860677e-6f), multiply_add(-n, broadcast(0.693145752f), x));
  Vector y = multiply_add(f, broadcast(1.0f / 5040.0f), broadcast(1.0f / 720.0f));
  y = multiply_add(y, f, broadcast(1.0f / 120.0f));
  y = multiply_add(y, f, broadcast(1.0f / 24.0f));
  y = multiply_add(y, f, broadcast(1.0f / 6.0f));
  y = multiply_add(y, f, broadcast(0.5f));
  y = multiply_add(y, f, broadcast(1.0f));
  y = multiply_add(y, f, broadcast(1.0f));
  const IntVector bits = (same_bits<IntVector>(shifted) + 127) << 23;  // the constant's own bits leave at the top
  return y * same_bits<Vector>(bits);
}

// Columns column, column + 16, … (Blocks · 16 of them, the last `some` < 16 short if not 0) of p V.
template <typename Format, int Blocks>
MOELORA_INLINE void weighted_values(const OneRowAttention& call, std::int64_t column, std::int64_t some, float scale) {
  Group sum[Blocks];
  for (int b = 0; b < Blocks; ++b) {
    sum[b] = zero_group();
  }
  const auto* value = static_cast<const typename Format::type*>(call.values) + column;
  for (std::int64_t t = 0; t < call.count; ++t, value += call.d) {
    Group p;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      p.part[i] = broadcast(call.scratch[t]);
    }
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) {
      __builtin_prefetch(reinterpret_cast<const char*>(value + b * kGroup) + kAhead);
      add_product(sum[b], p, some != 0 ? load_some<Format>(value, some) : load_group<Format>(value + b * kGroup));
    }
  }
  for (int b = 0; b < Blocks; ++b) {
    const std::int64_t width = some != 0 ? some : kGroup;
    for (std::int64_t i = 0; i < width; ++i) {
      call.out[column + b * kGroup + i] = sum[b].part[i / kWidth][i % kWidth] * scale;
    }
  }
}

template <typename Format>
void attend_with(const OneRowAttention& call) {
  constexpr int kKeys = 4;
  const auto* keys = static_cast<const typename Format::type*>(call.keys);
  float largest = -__builtin_inff();
  const auto keep = [&](std::int64_t t, const Group& sum) {
    const float score = total(sum) * call.scale;
    call.scratch[t] = score;
    largest = score > largest ? score : largest;
  };
  std::int64_t t = 0;
  for (; t + kKeys <= call.count; t += kKeys) {
    Group sum[kKeys][1];
    for (int j = 0; j < kKeys; ++j) {
      sum[j][0] = zero_group();
    }
    add_products<Format, kKeys, 1>(sum, call.q, keys + t * call.d, call.d, call.d);
    for (int j = 0; j < kKeys; ++j) {
      keep(t + j, sum[j][0]);
    }
  }
  for (; t < call.count; ++t) {
    Group sum[1][1] = {{zero_group()}};
    add_products<Format, 1, 1>(sum, call.q, keys + t * call.d, call.d, call.d);
    keep(t, sum[0][0]);
  }
  const std::int64_t padded = (call.count + kGroup - 1) / kGroup * kGroup;
  for (; t < padded; ++t) {
    call.scratch[t] = -__builtin_inff();
  }
  Group sum = zero_group();
  for (t = 0; t < padded; t += kGroup) {
    const Group score = load_group<Fp32>(call.scratch + t);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Vector p = exponential(score.part[i] - largest);
      sum.part[i] += p;
      __builtin_memcpy(call.scratch + t + i * kWidth, &p, sizeof p);
    }
  }
  const float scale = 1.0f / total(sum);
  std::int64_t column = 0;
  for (; column + 4 * kGroup <= call.d; column += 4 * kGroup) {
    weighted_values<Format, 4>(call, column, 0, scale);
  }
  for (; column + kGroup <= call.d; column += kGroup) {
    weighted_values<Format, 1>(call, column, 0, scale);
  }
  if (column < call.d) {
    weighted_values<Format, 1>(call, column, call.d - column, scale);
  }
}

void attend(const OneRowAttention& call) {
  switch (call.stored) {
    case Stored::fp32:
      return attend_with<Fp32>(call);
    case Stored::fp16:
      return attend_with<Fp16>(call);
    case Stored::bf16:
      return attend_with<Bf16>(call);
  }
}

}  // namespace

void enter_decode_attention(CpuKernels& table) { table.attend = attend; }

}  // namespace moelora::nn::kernels::MOELORA_ISA
