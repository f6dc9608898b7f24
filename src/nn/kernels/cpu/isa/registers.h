#pragma once
// Vector registers of fp32 elements, and the conversions from and to what weights are stored in. The same names for
// every instruction set: a file that is compiled for another one gets wider registers.
//
// Products are fused with the sums that take them where multiply_add says so, and the processor has such instructions;
// pack rounds to nearest, ties to even, as LibTorch does.

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define MOELORA_INLINE static inline __attribute__((always_inline))

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

template <typename To, typename From>
MOELORA_INLINE To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

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

MOELORA_INLINE float fp16_value(std::uint16_t half) {
  // Exponent and mantissa move into fp32's places; 2^112 corrects the bias, subnormals included.
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  const auto scaled = same_bits<std::uint32_t>(same_bits<float>(magnitude) * 0x1p112f);
  const std::uint32_t sign = (half & 0x8000u) << 16;
  return same_bits<float>((magnitude < (0x7c00u << 13) ? scaled : magnitude | 0x7f800000u) | sign);
}

// The addition to `base` rounds at fp16's last bit: its exponent is 13 above the value's, and no less than what fp16's
// subnormals ask for. The two products turn values beyond fp16's range into infinities.
MOELORA_INLINE std::uint16_t fp16_bits(float value) {
  const auto bits = same_bits<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) {
    return sign | 0x7e00u;
  }
  const std::uint32_t exponent = magnitude & 0x7f800000u;
  const std::uint32_t base = (exponent < 0x38800000u ? 0x38800000u : exponent) + 0x07800000u;
  const auto scaled = same_bits<float>(magnitude) * 0x1p112f * 0x1p-110f;
  const auto rounded = same_bits<std::uint32_t>(same_bits<float>(base) + scaled);
  return static_cast<std::uint16_t>(sign | (((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu)));
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

template <bool past_caches>
MOELORA_INLINE void write_register(void* to, Vector values) {
  if constexpr (past_caches) {
    stream(to, values);
  } else {
    __builtin_memcpy(to, &values, sizeof values);
  }
}

// What is stored. unpack: kWidth elements in their order. For work on each element by itself, 2 · kWidth of them at
// once: read_pair, round_pair (to the stored type), write_pair (side by side in memory again) and values_of what was
// rounded. Which elements are in which register is the format's matter.
struct Fp32 {
  using type = float;
  using Rounded = Pair;
  MOELORA_INLINE Vector unpack(const float* from) { return load_unaligned<Vector>(from); }
  MOELORA_INLINE Pair read_pair(const float* from) { return {unpack(from), unpack(from + kWidth)}; }
  MOELORA_INLINE Pair round_pair(const Pair& exact) { return exact; }
  MOELORA_INLINE Pair values_of(const Pair& rounded) { return rounded; }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(float* to, const Pair& rounded) {
    write_register<past_caches>(to, rounded.left);
    write_register<past_caches>(to + kWidth, rounded.right);
  }
};

struct Fp16 {
  using type = std::uint16_t;
  struct Rounded {
    Halves left, right;
  };
  MOELORA_INLINE Vector unpack(const std::uint16_t* from) { return from_fp16(load_unaligned<Halves>(from)); }
  MOELORA_INLINE Pair read_pair(const std::uint16_t* from) { return {unpack(from), unpack(from + kWidth)}; }
  MOELORA_INLINE Rounded round_pair(const Pair& exact) { return {to_fp16(exact.left), to_fp16(exact.right)}; }
  MOELORA_INLINE Pair values_of(const Rounded& rounded) { return {from_fp16(rounded.left), from_fp16(rounded.right)}; }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(std::uint16_t* to, const Rounded& rounded) {
    write_register<past_caches>(to, both(rounded.left, rounded.right));
  }
};

// Elements 0, 2, 4, … of a pair are in its left register and 1, 3, 5, … in its right one: each is the upper half of a
// 32-bit element, so that two instructions unpack them. Rounding adds half a unit of the upper half's last bit.
struct Bf16 {
  using type = std::uint16_t;
  using Rounded = IntVector;  ///< as in memory, on a little-endian machine
  static constexpr std::uint32_t kUpper = 0xffff0000u;
  static constexpr std::uint32_t kNan = 0x7fc00000u;

  MOELORA_INLINE Vector unpack(const std::uint16_t* from) { return from_bf16(load_unaligned<Halves>(from)); }
  MOELORA_INLINE Pair read_pair(const std::uint16_t* from) { return values_of(load_unaligned<IntVector>(from)); }
  MOELORA_INLINE Rounded round_pair(const Pair& exact) {
    IntVector left = rounded_bits(exact.left);
    IntVector right = rounded_bits(exact.right);
    if (__builtin_expect(has_nan(exact), 0)) {
      left = exact.left == exact.left ? left : IntVector{} + kNan;
      right = exact.right == exact.right ? right : IntVector{} + kNan;
    }
    return (left >> 16) | (right & kUpper);
  }
  MOELORA_INLINE Pair values_of(Rounded rounded) {
    return {same_bits<Vector>(rounded << 16), same_bits<Vector>(rounded & kUpper)};
  }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(std::uint16_t* to, Rounded rounded) {
    write_register<past_caches>(to, same_bits<Vector>(rounded));
  }

 private:
  MOELORA_INLINE IntVector rounded_bits(Vector exact) {
    const auto bits = same_bits<IntVector>(exact);
    return bits + ((bits >> 16) & 1u) + 0x7fffu;
  }
};

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
