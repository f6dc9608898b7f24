#pragma once
// Vectors of floats for fold_rows.h, one type of lanes for each instruction set, with the conversions from and to the
// dtypes that weights are stored in. pack rounds to nearest, ties to even, as LibTorch does.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define MOELORA_FOLD_X86
#include <immintrin.h>
#define MOELORA_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define MOELORA_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#endif

namespace moelora::fold {

#if defined(MOELORA_FOLD_X86)

inline bool avx2_present() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

inline bool avx512_present() {
  return avx2_present() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#define MOELORA_LANE MOELORA_TARGET_AVX512 static inline __attribute__((always_inline))
struct Avx512Lanes {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kRows = 8;
  struct HalfBits {
    __m256i bits;
  };
  struct Bfloat16Bits {
    __m256i bits;
  };

  MOELORA_LANE Vector zero() { return _mm512_setzero_ps(); }
  MOELORA_LANE Vector load(const float* from) { return _mm512_loadu_ps(from); }
  MOELORA_LANE Vector broadcast(float value) { return _mm512_set1_ps(value); }
  MOELORA_LANE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  MOELORA_LANE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  MOELORA_LANE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  MOELORA_LANE Vector distance(Vector a, Vector b) { return _mm512_abs_ps(_mm512_sub_ps(a, b)); }
  MOELORA_LANE void prefetch(std::uintptr_t at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1); }
  MOELORA_LANE void finish_streams() { _mm_sfence(); }

  MOELORA_LANE Vector read(const float* from) { return _mm512_loadu_ps(from); }
  MOELORA_LANE HalfBits read(const c10::Half* from) { return {_mm256_loadu_si256(cast(from))}; }
  MOELORA_LANE Bfloat16Bits read(const c10::BFloat16* from) { return {_mm256_loadu_si256(cast(from))}; }

  MOELORA_LANE Vector unpack(Vector values) { return values; }
  MOELORA_LANE Vector unpack(HalfBits values) { return _mm512_cvtph_ps(values.bits); }
  MOELORA_LANE Vector unpack(Bfloat16Bits values) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values.bits), 16));
  }

  template <typename Scalar>
  MOELORA_LANE auto pack(Vector values) {
    if constexpr (sizeof(Scalar) == sizeof(float)) {
      return values;
    } else if constexpr (std::is_same_v<Scalar, c10::Half>) {
      return HalfBits{_mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT)};
    } else {
      const __m512i bits = _mm512_castps_si512(values);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
      const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
      const __m512i upper = _mm512_mask_set1_epi32(_mm512_srli_epi32(rounded, 16), nan, 0x7fc0);
      return Bfloat16Bits{_mm512_cvtepi32_epi16(upper)};
    }
  }

  template <bool stream>
  MOELORA_LANE void write(float* to, Vector left, Vector right) {
    if constexpr (stream) {
      _mm512_stream_ps(to, left);
      _mm512_stream_ps(to + kWidth, right);
    } else {
      _mm512_storeu_ps(to, left);
      _mm512_storeu_ps(to + kWidth, right);
    }
  }
  template <bool stream, typename Scalar, typename Bits>
  MOELORA_LANE void write(Scalar* to, Bits left, Bits right) {
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(left.bits), right.bits, 1);
    if constexpr (stream) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to), both);
    } else {
      _mm512_storeu_si512(to, both);
    }
  }

 private:
  MOELORA_LANE const __m256i* cast(const void* from) { return static_cast<const __m256i*>(from); }
};
#undef MOELORA_LANE

#define MOELORA_LANE MOELORA_TARGET_AVX2 static inline __attribute__((always_inline))
struct Avx2Lanes {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRows = 4;
  struct HalfBits {
    __m128i bits;
  };
  struct Bfloat16Bits {
    __m128i bits;
  };

  MOELORA_LANE Vector zero() { return _mm256_setzero_ps(); }
  MOELORA_LANE Vector load(const float* from) { return _mm256_loadu_ps(from); }
  MOELORA_LANE Vector broadcast(float value) { return _mm256_set1_ps(value); }
  MOELORA_LANE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  MOELORA_LANE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  MOELORA_LANE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  MOELORA_LANE Vector distance(Vector a, Vector b) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(a, b));
  }
  MOELORA_LANE void prefetch(std::uintptr_t at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1); }
  MOELORA_LANE void finish_streams() { _mm_sfence(); }

  MOELORA_LANE Vector read(const float* from) { return _mm256_loadu_ps(from); }
  MOELORA_LANE HalfBits read(const c10::Half* from) { return {_mm_loadu_si128(cast(from))}; }
  MOELORA_LANE Bfloat16Bits read(const c10::BFloat16* from) { return {_mm_loadu_si128(cast(from))}; }

  MOELORA_LANE Vector unpack(Vector values) { return values; }
  MOELORA_LANE Vector unpack(HalfBits values) { return _mm256_cvtph_ps(values.bits); }
  MOELORA_LANE Vector unpack(Bfloat16Bits values) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values.bits), 16));
  }

  template <typename Scalar>
  MOELORA_LANE auto pack(Vector values) {
    if constexpr (sizeof(Scalar) == sizeof(float)) {
      return values;
    } else if constexpr (std::is_same_v<Scalar, c10::Half>) {
      return HalfBits{_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT)};
    } else {
      const __m256i bits = _mm256_castps_si256(values);
      const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
      const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
      const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
      const __m256i upper = _mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), _mm256_set1_epi32(0x7fc0), nan);
      return Bfloat16Bits{_mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1))};
    }
  }

  template <bool stream>
  MOELORA_LANE void write(float* to, Vector left, Vector right) {
    if constexpr (stream) {
      _mm256_stream_ps(to, left);
      _mm256_stream_ps(to + kWidth, right);
    } else {
      _mm256_storeu_ps(to, left);
      _mm256_storeu_ps(to + kWidth, right);
    }
  }
  template <bool stream, typename Scalar, typename Bits>
  MOELORA_LANE void write(Scalar* to, Bits left, Bits right) {
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(left.bits), right.bits, 1);
    if constexpr (stream) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(to), both);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), both);
    }
  }

 private:
  MOELORA_LANE const __m128i* cast(const void* from) { return static_cast<const __m128i*>(from); }
};
#undef MOELORA_LANE

#endif  // MOELORA_FOLD_X86

/// Any machine: four floats, which compilers keep in whatever vectors there are.
struct PortableLanes {
  static constexpr int kWidth = 4;
  static constexpr int kRows = 4;
  typedef float Vector __attribute__((vector_size(16)));

  template <typename Scalar>
  struct Bits {
    Scalar values[kWidth];
  };

  static Vector zero() { return Vector{}; }
  static Vector load(const float* from) { return Vector{from[0], from[1], from[2], from[3]}; }
  static Vector broadcast(float value) { return Vector{value, value, value, value}; }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
  static Vector larger(Vector a, Vector b) { return a > b ? a : b; }
  static Vector distance(Vector a, Vector b) {
    const Vector difference = a - b;
    return difference < zero() ? -difference : difference;
  }
  static void prefetch(std::uintptr_t) {}
  static void finish_streams() {}

  template <typename Scalar>
  static Bits<Scalar> read(const Scalar* from) {
    Bits<Scalar> bits;
    std::copy_n(from, kWidth, bits.values);
    return bits;
  }
  template <typename Scalar>
  static Vector unpack(const Bits<Scalar>& bits) {
    Vector values = zero();
    for (int i = 0; i < kWidth; ++i) {
      values[i] = static_cast<float>(bits.values[i]);
    }
    return values;
  }
  template <typename Scalar>
  static Bits<Scalar> pack(Vector values) {
    Bits<Scalar> bits;
    for (int i = 0; i < kWidth; ++i) {
      bits.values[i] = static_cast<Scalar>(values[i]);
    }
    return bits;
  }
  template <bool stream, typename Scalar>
  static void write(Scalar* to, const Bits<Scalar>& left, const Bits<Scalar>& right) {
    std::copy_n(left.values, kWidth, to);
    std::copy_n(right.values, kWidth, to + kWidth);
  }
};

}  // namespace moelora::fold
