// Included by one source file for each instruction set, which defines MOELORA_KERNELS (a namespace) before. Everything
// stands in that namespace: nothing here may become a symbol that another instruction set shares.
//
// Sixteen partial sums make a dot product whatever the registers' width: kParts registers of kWidth numbers.

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "nn/kernels/row_kernels.h"

namespace moelora::nn::kernels::MOELORA_KERNELS {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
constexpr int kMostTogether = 8;  // rows of x that share one pass over the registers
constexpr int weights_together(int) {
  return 3;
}  // streams through the weight: 3 x 8 sums, 3 weights, 1 x: 28 registers
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kMostTogether = 4;
constexpr int weights_together(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
#else
constexpr int kWidth = 4;
constexpr int kMostTogether = 2;
constexpr int weights_together(int) { return 1; }
#endif
constexpr int kLanes = 16;
constexpr int kParts = kLanes / kWidth;
constexpr int kAhead = 2048;  // bytes between what is fetched early and what is used

typedef float Vec __attribute__((vector_size(kWidth * 4)));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * 4)));
typedef float Four __attribute__((vector_size(16)));

#define MOELORA_INLINE static inline __attribute__((always_inline))

struct Lanes {
  Vec part[kParts];
};

template <typename Vector, typename Number>
MOELORA_INLINE Vector unaligned(const Number* from) {
  Vector v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

MOELORA_INLINE Lanes all(float value) {
  Lanes lanes;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    lanes.part[i] = Vec{} + value;
  }
  return lanes;
}

MOELORA_INLINE void multiply_add(Lanes& sum, const Lanes& a, const Lanes& b) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    sum.part[i] += a.part[i] * b.part[i];
  }
}

// The same tree for every width: lanes i and i + 8, then i + 4, i + 2, i + 1.
MOELORA_INLINE float total(const Lanes& lanes) {
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes.part[0]), _mm512_extractf32x8_ps(lanes.part[0], 1));
  const Four four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
  const __m256 eight = _mm256_add_ps(lanes.part[0], lanes.part[1]);
  const Four four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
  const Four four = (lanes.part[0] + lanes.part[2]) + (lanes.part[1] + lanes.part[3]);
#endif
  return (four[0] + four[2]) + (four[1] + four[3]);
}

struct Fp32 {
  using type = float;
  MOELORA_INLINE Lanes load(const float* from) {
    Lanes lanes;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      lanes.part[i] = unaligned<Vec>(from + i * kWidth);
    }
    return lanes;
  }
};

struct Fp16 {
  using type = std::uint16_t;
  MOELORA_INLINE Lanes load(const std::uint16_t* from) {
    Lanes lanes;
#if defined(__AVX512F__)
    lanes.part[0] = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
    lanes.part[0] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    lanes.part[1] = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)));
#else
    for (int i = 0; i < kLanes; ++i) {
      // Exponent and mantissa move into fp32's places; 2^112 corrects the bias, subnormals included.
      const std::uint32_t magnitude = static_cast<std::uint32_t>(from[i] & 0x7fffu) << 13;
      const bool finite = magnitude < (0x7c00u << 13);
      const std::uint32_t bits = finite ? magnitude : magnitude | 0x7f800000u;
      float value;
      __builtin_memcpy(&value, &bits, sizeof value);
      value = finite ? value * 0x1p112f : value;
      lanes.part[i / kWidth][i % kWidth] = (from[i] & 0x8000u) != 0 ? -value : value;
    }
#endif
    return lanes;
  }
};

struct Bf16 {
  using type = std::uint16_t;
  MOELORA_INLINE Lanes load(const std::uint16_t* from) {
    Lanes lanes;
#if defined(__AVX512F__)
    lanes.part[0] = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))), 16));
#elif defined(__AVX2__)
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      lanes.part[i] = _mm256_castsi256_ps(_mm256_slli_epi32(
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * i))), 16));
    }
#else
    for (int i = 0; i < kLanes; ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(from[i]) << 16;
      float value;
      __builtin_memcpy(&value, &bits, sizeof value);
      lanes.part[i / kWidth][i % kWidth] = value;
    }
#endif
    return lanes;
  }
};

// The last `count` < 16 numbers of a row, zeros behind them.
template <typename Format>
MOELORA_INLINE Lanes load_some(const typename Format::type* from, std::int64_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1u);
  if constexpr (sizeof(typename Format::type) == 4) {
    return {{_mm512_maskz_loadu_ps(mask, from)}};
  } else {
    alignas(32) std::uint16_t padded[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(padded), _mm256_maskz_loadu_epi16(mask, from));
    return Format::load(padded);
  }
#else
  typename Format::type padded[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    padded[i] = from[i];
  }
  return Format::load(padded);
#endif
}

// Adds the dot products of Rows rows with Weights rows of a matrix.
template <typename Format, int Weights, int Rows>
MOELORA_INLINE void add_products(Lanes (&sum)[Weights][Rows], const float* x, const typename Format::type* weight,
                                 std::int64_t weight_stride, std::int64_t depth) {
  std::int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    Lanes w[Weights];
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      const auto* from = weight + j * weight_stride + k;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead);
      w[j] = Format::load(from);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Lanes row = Fp32::load(x + r * depth + k);
#pragma GCC unroll 8
      for (int j = 0; j < Weights; ++j) {
        multiply_add(sum[j][r], row, w[j]);
      }
    }
  }
  // Unrolled too: a loop that indexes the sums would keep all of them in memory.
  if (k < depth) {
    Lanes w[Weights];
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      w[j] = load_some<Format>(weight + j * weight_stride + k, depth - k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Lanes row = load_some<Fp32>(x + r * depth + k, depth - k);
#pragma GCC unroll 8
      for (int j = 0; j < Weights; ++j) {
        multiply_add(sum[j][r], row, w[j]);
      }
    }
  }
}

// The low-rank part where each row has its own columns of b. The loop works on a copy, so that the sums themselves can
// stay in registers.
template <int Weights, int Rows>
MOELORA_INLINE void add_own_products(Lanes (&sum)[Weights][Rows], const FewRows& call, std::int64_t row,
                                     std::int64_t first, std::int64_t stride) {
  Lanes own[Rows][Weights][1];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      own[r][j][0] = sum[j][r];
    }
  }
#pragma GCC unroll 1
  for (int r = 0; r < Rows; ++r) {
    add_products<Fp32, Weights, 1>(own[r], call.v + (row + r) * call.rank,
                                   call.b + first * call.stride_b + call.columns[row + r], stride * call.stride_b,
                                   call.rank);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      sum[j][r] = own[r][j][0];
    }
  }
}

// Outputs first, first + stride, … (Weights of them) of rows row, row + 1, … (Rows of them).
template <typename Format, int Weights, int Rows>
void tile(const FewRows& call, std::int64_t row, std::int64_t first, std::int64_t stride) {
  Lanes sum[Weights][Rows];
#pragma GCC unroll 8
  for (int j = 0; j < Weights; ++j) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      sum[j][r] = all(0.0f);
    }
  }
  // The low-rank part comes last and its few cache lines are fetched now: a miss at its place would stall the stream,
  // and fetched further ahead they would be gone again.
  for (int j = 0; j < Weights; ++j) {
    for (std::int64_t c = 0; c < call.rank && call.columns == nullptr; c += kLanes) {
      __builtin_prefetch(call.b + (first + j * stride) * call.stride_b + c);
    }
  }
  const auto* weight = static_cast<const typename Format::type*>(call.weight) + first * call.d_in;
  add_products<Format, Weights, Rows>(sum, call.x + row * call.d_in, weight, stride * call.d_in, call.d_in);
  if (call.columns != nullptr) {
    add_own_products(sum, call, row, first, stride);
  } else if (call.rank > 0) {
    add_products<Fp32, Weights, Rows>(sum, call.v + row * call.rank, call.b + first * call.stride_b,
                                      stride * call.stride_b, call.rank);
  }
#pragma GCC unroll 8
  for (int j = 0; j < Weights; ++j) {
    const std::int64_t output = first + j * stride;
    const float bias = call.bias != nullptr ? call.bias[output] : 0.0f;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      call.y[(row + r) * call.d_out + output] = total(sum[j][r]) + bias;
    }
  }
}

// `count` rows from `row` on, count <= Rows.
template <typename Format, int Weights, int Rows>
void some_rows(const FewRows& call, std::int64_t row, std::int64_t count, std::int64_t first, std::int64_t stride) {
  if (count == Rows) {
    tile<Format, Weights, Rows>(call, row, first, stride);
  } else if constexpr (Rows > 1) {
    some_rows<Format, Weights, Rows - 1>(call, row, count, first, stride);
  }
}

// The weight's rows are walked in `Weights` streams that lie apart: each is a straight line through memory. Rows of x
// beyond kMostTogether read the weight's rows again, then from a cache.
template <typename Format, int Weights>
void outputs(const FewRows& call, std::int64_t first, std::int64_t last) {
  const std::int64_t each = (last - first) / Weights;
  for (std::int64_t i = 0; i < each; ++i) {
    for (std::int64_t row = 0; row < call.rows; row += kMostTogether) {
      some_rows<Format, Weights, kMostTogether>(
          call, row, call.rows - row < kMostTogether ? call.rows - row : kMostTogether, first + i, each);
    }
  }
  if constexpr (Weights > 1) {
    outputs<Format, 1>(call, first + each * Weights, last);
  }
}

template <typename Format>
void product_with(const FewRows& call, std::int64_t first, std::int64_t last) {
  if (call.rows == 1) {
    outputs<Format, weights_together(1)>(call, first, last);
  } else if (call.rows == 2) {
    outputs<Format, weights_together(2)>(call, first, last);
  } else {
    outputs<Format, weights_together(3)>(call, first, last);
  }
}

void product(const FewRows& call, std::int64_t first, std::int64_t last) {
  switch (call.stored) {
    case Stored::fp32:
      return product_with<Fp32>(call, first, last);
    case Stored::fp16:
      return product_with<Fp16>(call, first, last);
    case Stored::bf16:
      return product_with<Bf16>(call, first, last);
  }
}

// e^x for x <= 0: x = n ln 2 + f with |f| <= ln(2)/2, Taylor's series of e^f to the 7th power (error below 1 ulp of
// fp32), times 2^n. Below -87 the result is e^-87, which no fp32 sum of such terms with a 1 among them notices.
MOELORA_INLINE Vec exponential(Vec x) {
  const Vec lowest = Vec{} - 87.0f;
  x = x < lowest ? lowest : x;
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 · 2^23: the integer part falls into the lowest bits
  const Vec n = shifted - 12582912.0f;
  const Vec f = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  Vec y = f * (1.0f / 5040.0f) + (1.0f / 720.0f);
  y = y * f + (1.0f / 120.0f);
  y = y * f + (1.0f / 24.0f);
  y = y * f + (1.0f / 6.0f);
  y = y * f + 0.5f;
  y = y * f + 1.0f;
  y = y * f + 1.0f;
  Ints bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;  // the constant's own bits leave at the top
  Vec power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return y * power;
}

// Columns column, column + 16, … (Blocks · 16 of them, the last `some` < 16 short if not 0) of p V.
template <typename Format, int Blocks>
MOELORA_INLINE void weighted_values(const OneRowAttention& call, std::int64_t column, std::int64_t some, float scale) {
  Lanes sum[Blocks];
  for (int b = 0; b < Blocks; ++b) {
    sum[b] = all(0.0f);
  }
  const auto* value = static_cast<const typename Format::type*>(call.values) + column;
  for (std::int64_t t = 0; t < call.count; ++t, value += call.d) {
    const Lanes p = all(call.scratch[t]);
#pragma GCC unroll 8
    for (int b = 0; b < Blocks; ++b) {
      __builtin_prefetch(reinterpret_cast<const char*>(value + b * kLanes) + kAhead);
      multiply_add(sum[b], p, some != 0 ? load_some<Format>(value, some) : Format::load(value + b * kLanes));
    }
  }
  for (int b = 0; b < Blocks; ++b) {
    const std::int64_t width = some != 0 ? some : kLanes;
    for (std::int64_t i = 0; i < width; ++i) {
      call.out[column + b * kLanes + i] = sum[b].part[i / kWidth][i % kWidth] * scale;
    }
  }
}

template <typename Format>
void attend_with(const OneRowAttention& call) {
  constexpr int kKeys = 4;
  const auto* keys = static_cast<const typename Format::type*>(call.keys);
  float largest = -__builtin_inff();
  const auto keep = [&](std::int64_t t, const Lanes& sum) {
    const float score = total(sum) * call.scale;
    call.scratch[t] = score;
    largest = score > largest ? score : largest;
  };
  std::int64_t t = 0;
  for (; t + kKeys <= call.count; t += kKeys) {
    Lanes sum[kKeys][1];
    for (int j = 0; j < kKeys; ++j) {
      sum[j][0] = all(0.0f);
    }
    add_products<Format, kKeys, 1>(sum, call.q, keys + t * call.d, call.d, call.d);
    for (int j = 0; j < kKeys; ++j) {
      keep(t + j, sum[j][0]);
    }
  }
  for (; t < call.count; ++t) {
    Lanes sum[1][1] = {{all(0.0f)}};
    add_products<Format, 1, 1>(sum, call.q, keys + t * call.d, call.d, call.d);
    keep(t, sum[0][0]);
  }
  const std::int64_t padded = (call.count + kLanes - 1) / kLanes * kLanes;
  for (; t < padded; ++t) {
    call.scratch[t] = -__builtin_inff();
  }
  Lanes sum = all(0.0f);
  for (t = 0; t < padded; t += kLanes) {
    const Lanes score = Fp32::load(call.scratch + t);
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
      const Vec p = exponential(score.part[i] - largest);
      sum.part[i] += p;
      __builtin_memcpy(call.scratch + t + i * kWidth, &p, sizeof p);
    }
  }
  const float scale = 1.0f / total(sum);
  std::int64_t column = 0;
  for (; column + 4 * kLanes <= call.d; column += 4 * kLanes) {
    weighted_values<Format, 4>(call, column, 0, scale);
  }
  for (; column + kLanes <= call.d; column += kLanes) {
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

#undef MOELORA_INLINE

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_KERNELS
