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
typedef std::int32_t IntVector __attribute__((vector_size(kWidth * 4)));
typedef double WideVector __attribute__((vector_size(kWidth * 4)));  // half as many elements
typedef float FourFloats __attribute__((vector_size(16)));

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
MOELORA_INLINE Halves to_bf16(Vector values) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_set1_epi32(_mm512_srli_epi32(rounded, 16), nan, 0x7fc0));
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
MOELORA_INLINE Halves to_bf16(Vector values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i upper = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
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
  const bool finite = magnitude < (0x7c00u << 13);
  const auto bits = same_bits<float>(finite ? magnitude : magnitude | 0x7f800000u);
  const float value = finite ? bits * 0x1p112f : bits;
  return (half & 0x8000u) != 0 ? -value : value;
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

MOELORA_INLINE std::uint16_t bf16_bits(float value) {
  const auto bits = same_bits<std::uint32_t>(value);
  return value != value ? std::uint16_t{0x7fc0}
                        : static_cast<std::uint16_t>((bits + ((bits >> 16) & 1u) + 0x7fffu) >> 16);
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
MOELORA_INLINE Halves to_bf16(Vector values) {
  Halves halves{};
  for (int i = 0; i < kWidth; ++i) {
    halves[i] = bf16_bits(values[i]);
  }
  return halves;
}

#endif

// What is stored: kWidth elements as they lie in memory (read), as fp32 (unpack), rounded again (pack), and two
// registers of them written side by side, past the caches or not.
struct Fp32 {
  using type = float;
  MOELORA_INLINE Vector read(const float* from) { return load_unaligned<Vector>(from); }
  MOELORA_INLINE Vector unpack(Vector values) { return values; }
  MOELORA_INLINE Vector pack(Vector values) { return values; }
  template <bool past_caches>
  MOELORA_INLINE void write(float* to, Vector left, Vector right) {
    if constexpr (past_caches) {
      stream(to, left);
      stream(to + kWidth, right);
    } else {
      __builtin_memcpy(to, &left, sizeof left);
      __builtin_memcpy(to + kWidth, &right, sizeof right);
    }
  }
};

struct SixteenBits {
  using type = std::uint16_t;
  MOELORA_INLINE Halves read(const std::uint16_t* from) { return load_unaligned<Halves>(from); }
  template <bool past_caches>
  MOELORA_INLINE void write(std::uint16_t* to, Halves left, Halves right) {
    const Vector values = both(left, right);
    if constexpr (past_caches) {
      stream(to, values);
    } else {
      __builtin_memcpy(to, &values, sizeof values);
    }
  }
};

struct Fp16 : SixteenBits {
  MOELORA_INLINE Vector unpack(Halves values) { return from_fp16(values); }
  MOELORA_INLINE Halves pack(Vector values) { return to_fp16(values); }
};

struct Bf16 : SixteenBits {
  MOELORA_INLINE Vector unpack(Halves values) { return from_bf16(values); }
  MOELORA_INLINE Halves pack(Vector values) { return to_bf16(values); }
};

template <typename Format>
MOELORA_INLINE Vector load(const typename Format::type* from) {
  return Format::unpack(Format::read(from));
}

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
