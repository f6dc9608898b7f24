#pragma once
// Dot products of rows with rows of a matrix. Sixteen partial sums make one of them whatever the registers' width, and
// one tree adds these.

#include <cstdint>

#include "nn/kernels/cpu/isa/formats.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

constexpr int kGroup = 16;  // elements
constexpr int kParts = kGroup / kWidth;
constexpr int kAhead = 2048;  // bytes between what is fetched early and what is used

/// Sixteen consecutive elements, or partial sums.
struct Group {
  Vector part[kParts];
};

MOELORA_INLINE Group zero_group() {
  Group group;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    group.part[i] = Vector{};
  }
  return group;
}

MOELORA_INLINE void add_product(Group& sum, const Group& a, const Group& b) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    sum.part[i] = multiply_add(a.part[i], b.part[i], sum.part[i]);
  }
}

// The same tree for every width: elements i and i + 8, then i + 4, i + 2, i + 1.
MOELORA_INLINE float total(const Group& group) {
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(group.part[0]), _mm512_extractf32x8_ps(group.part[0], 1));
  const FourFloats four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#elif defined(__AVX2__)
  const __m256 eight = _mm256_add_ps(group.part[0], group.part[1]);
  const FourFloats four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
#else
  const FourFloats four = (group.part[0] + group.part[2]) + (group.part[1] + group.part[3]);
#endif
  return (four[0] + four[2]) + (four[1] + four[3]);
}

template <typename Format>
MOELORA_INLINE Group load_group(const typename Format::type* from) {
  Group group;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    group.part[i] = Format::unpack(from + i * kWidth);
  }
  return group;
}

// The last `count` < 16 elements of a row, zeros behind them.
template <typename Format>
MOELORA_INLINE Group load_some(const typename Format::type* from, std::int64_t count) {
#if defined(__AVX512F__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1u);
  if constexpr (sizeof(typename Format::type) == 4) {
    return {{_mm512_maskz_loadu_ps(mask, from)}};
  } else {
    alignas(32) std::uint16_t padded[kGroup];
    _mm256_store_si256(reinterpret_cast<__m256i*>(padded), _mm256_maskz_loadu_epi16(mask, from));
    return load_group<Format>(padded);
  }
#else
  typename Format::type padded[kGroup] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    padded[i] = from[i];
  }
  return load_group<Format>(padded);
#endif
}

// Adds the dot products of Rows rows with Weights rows of a matrix.
template <typename Format, int Weights, int Rows>
MOELORA_INLINE void add_products(Group (&sum)[Weights][Rows], const float* x, const typename Format::type* weight,
                                 std::int64_t weight_stride, std::int64_t depth) {
  std::int64_t k = 0;
  for (; k + kGroup <= depth; k += kGroup) {
    Group w[Weights];
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      const auto* from = weight + j * weight_stride + k;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead);
      w[j] = load_group<Format>(from);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Group row = load_group<Fp32>(x + r * depth + k);
#pragma GCC unroll 8
      for (int j = 0; j < Weights; ++j) {
        add_product(sum[j][r], row, w[j]);
      }
    }
  }
  // Unrolled too: a loop that indexes the sums would keep all of them in memory.
  if (k < depth) {
    Group w[Weights];
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      w[j] = load_some<Format>(weight + j * weight_stride + k, depth - k);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const Group row = load_some<Fp32>(x + r * depth + k, depth - k);
#pragma GCC unroll 8
      for (int j = 0; j < Weights; ++j) {
        add_product(sum[j][r], row, w[j]);
      }
    }
  }
}

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
