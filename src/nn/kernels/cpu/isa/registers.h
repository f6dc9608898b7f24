#pragma once
// Vector registers of fp32 elements. The same names for every instruction set: a file that is compiled for another one
// gets wider registers. A product and the sum that takes it round once where multiply_add says so and the processor has
// such instructions.

#include <cstdint>

#include "nn/kernels/cpu/isa/half_bits.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;  // compilers keep four floats in whatever vectors there are
#endif

typedef float Vector __attribute__((vector_size(kWidth * 4)));
typedef std::uint32_t IntVector __attribute__((vector_size(kWidth * 4)));
typedef double WideVector __attribute__((vector_size(kWidth * 4)));  // half as many elements
typedef float FourFloats __attribute__((vector_size(16)));

/// Two registers that hold 2 · kWidth elements between them.
struct Pair {
  Vector left;
  Vector right;
};

template <typename Register, typename Element>
MOELORA_INLINE Register load_unaligned(const Element* from) {
  Register values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}

#if defined(__AVX512F__)

MOELORA_INLINE Vector broadcast(float value) { return _mm512_set1_ps(value); }
MOELORA_INLINE WideVector broadcast(double value) { return _mm512_set1_pd(value); }
// a · b + c
MOELORA_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
MOELORA_INLINE WideVector multiply_add(WideVector a, WideVector b, WideVector c) { return _mm512_fmadd_pd(a, b, c); }
MOELORA_INLINE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
MOELORA_INLINE Vector distance(Vector a, Vector b) { return _mm512_abs_ps(_mm512_sub_ps(a, b)); }

MOELORA_INLINE bool has_nan(const Pair& values) {
  return _mm512_cmp_ps_mask(values.left, values.right, _CMP_UNORD_Q) != 0;
}

MOELORA_INLINE void stream(void* to, Vector values) { _mm512_stream_ps(static_cast<float*>(to), values); }
MOELORA_INLINE void finish_streams() { _mm_sfence(); }

typedef __m256i Halves;  // kWidth elements of 16 bits

MOELORA_INLINE Vector both(Halves left, Halves right) {
  return _mm512_castsi512_ps(_mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1));
}
MOELORA_INLINE Vector from_fp16(Halves values) { return _mm512_cvtph_ps(values); }
MOELORA_INLINE Halves to_fp16(Vector values) { return _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT); }
MOELORA_INLINE Vector from_bf16(Halves values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

#elif defined(__AVX2__)

MOELORA_INLINE Vector broadcast(float value) { return _mm256_set1_ps(value); }
MOELORA_INLINE WideVector broadcast(double value) { return _mm256_set1_pd(value); }
MOELORA_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
MOELORA_INLINE WideVector multiply_add(WideVector a, WideVector b, WideVector c) { return _mm256_fmadd_pd(a, b, c); }
MOELORA_INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
MOELORA_INLINE Vector distance(Vector a, Vector b) {
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(a, b));
}

MOELORA_INLINE bool has_nan(const Pair& values) {
  return _mm256_movemask_ps(_mm256_cmp_ps(values.left, values.right, _CMP_UNORD_Q)) != 0;
}

MOELORA_INLINE void stream(void* to, Vector values) { _mm256_stream_ps(static_cast<float*>(to), values); }
MOELORA_INLINE void finish_streams() { _mm_sfence(); }

typedef __m128i Halves;

MOELORA_INLINE Vector both(Halves left, Halves right) {
  return _mm256_castsi256_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(left), right, 1));
}
MOELORA_INLINE Vector from_fp16(Halves values) { return _mm256_cvtph_ps(values); }
MOELORA_INLINE Halves to_fp16(Vector values) { return _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT); }
MOELORA_INLINE Vector from_bf16(Halves values) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
}

#else

MOELORA_INLINE Vector broadcast(float value) { return Vector{value, value, value, value}; }
MOELORA_INLINE WideVector broadcast(double value) { return WideVector{value, value}; }
MOELORA_INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
MOELORA_INLINE WideVector multiply_add(WideVector a, WideVector b, WideVector c) { return a * b + c; }
MOELORA_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }
MOELORA_INLINE Vector distance(Vector a, Vector b) {
  const Vector difference = a - b;
  return difference < Vector{} ? -difference : difference;
}

MOELORA_INLINE bool has_nan(const Pair& values) {
  bool found = false;
  for (int i = 0; i < kWidth; ++i) {
    found = found || values.left[i] != values.left[i] || values.right[i] != values.right[i];
  }
  return found;
}

MOELORA_INLINE void stream(void* to, Vector values) { __builtin_memcpy(to, &values, sizeof values); }
MOELORA_INLINE void finish_streams() {}

typedef std::uint16_t Halves __attribute__((vector_size(kWidth * 2)));

MOELORA_INLINE Vector both(Halves left, Halves right) {
  Halves values[2] = {left, right};
  return load_unaligned<Vector>(&values[0]);
}

MOELORA_INLINE Vector from_fp16(Halves halves) {
  Vector values{};
  for (int i = 0; i < kWidth; ++i) {
    values[i] = fp16_value(halves[i]);
  }
  return values;
}
MOELORA_INLINE Halves to_fp16(Vector values) {
  Halves halves{};
  for (int i = 0; i < kWidth; ++i) {
    halves[i] = fp16_bits(values[i]);
  }
  return halves;
}
MOELORA_INLINE Vector from_bf16(Halves halves) {
  Vector values{};
  for (int i = 0; i < kWidth; ++i) {
    values[i] = same_bits<float>(static_cast<std::uint32_t>(halves[i]) << 16);
  }
  return values;
}

#endif

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
