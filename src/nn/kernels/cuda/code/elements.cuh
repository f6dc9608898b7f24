#pragma once
// Elements of tensors: float, and the 16-bit formats, which are computed with in fp32.

#include "language.cuh"

#ifndef __CUDACC_RTC__
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#endif

namespace moelora::device {

struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

MOELORA_DEVICE float to_float(float x) { return x; }
MOELORA_DEVICE void from_float(float x, float& y) { y = x; }

// Round to nearest even.
#ifdef __CUDACC_RTC__
MOELORA_DEVICE float to_float(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
MOELORA_DEVICE void from_float(float x, Half& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
#else
MOELORA_DEVICE float to_float(Half x) { return static_cast<float>(c10::Half(x.bits, c10::Half::from_bits())); }
MOELORA_DEVICE void from_float(float x, Half& y) { y.bits = c10::Half(x).x; }
#endif
MOELORA_DEVICE float to_float(BFloat16 x) { return float_of(static_cast<uint32>(x.bits) << 16); }
MOELORA_DEVICE void from_float(float x, BFloat16& y) {
  const uint32 bits = bits_of(x);
  y.bits = x != x ? 0x7fc0u : static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

template <typename T>
MOELORA_DEVICE float load(const T* place) {
  return to_float(*place);
}
template <typename T>
MOELORA_DEVICE void store(T* place, float x) {
  from_float(x, *place);
}

/// x as an element of T holds it.
template <typename T>
MOELORA_DEVICE float rounded(float x) {
  T element;
  from_float(x, element);
  return to_float(element);
}

/// Neighbours of a thread where shapes and addresses allow (kernels/cuda/packs.h).
constexpr int kPack = 4;

/// N neighbours, read or written at once; the place is aligned to them.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T values[N];
};
template <int N, typename T>
MOELORA_DEVICE void load_pack(const T* place, float* x) {
  const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(place);
  MOELORA_UNROLL
  for (int i = 0; i < N; ++i) {
    x[i] = to_float(pack.values[i]);
  }
}
template <int N, typename T>
MOELORA_DEVICE void store_pack(T* place, const float* x) {
  Pack<T, N> pack;
  MOELORA_UNROLL
  for (int i = 0; i < N; ++i) {
    from_float(x[i], pack.values[i]);
  }
  *reinterpret_cast<Pack<T, N>*>(place) = pack;
}

}  // namespace moelora::device
