#pragma once
// Root mean square normalisation over rows with the residual that goes with it, in fp32 (moelora/nn/rms_norm.h). One
// row for each block; a row that was read once comes from the cache afterwards. The CPU's twin:
// kernels/cpu/isa/rms_norm.cpp.

#include "elements.cuh"

namespace moelora::device {

/// A row's y = round(x · inverse) · weight, by all threads of its block.
template <uint32 kThreads, int N, typename T>
MOELORA_DEVICE void rms_normalise_row(const T* x, const T* weight, T* y, int32 width, float inverse) {
  for (int32 c = N * static_cast<int32>(thread()); c < width; c += N * kThreads) {
    float a[N], w[N];
    load_pack<N>(x + c, a);
    load_pack<N>(weight + c, w);
    MOELORA_UNROLL
    for (int n = 0; n < N; ++n) {
      a[n] = rounded<T>(a[n] * inverse) * w[n];
    }
    store_pack<N>(y + c, a);
  }
}

/// x := x + residual, rounded (residual null: x stays); y = norm of what x is then; rstd for backward.
/// x, residual, y [rows, width], weight [width].
template <typename T, int N>
struct AddAndRmsNormalise {
  static constexpr const char* kName = "AddAndRmsNormalise";
  static constexpr const char* kFile = "rms_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  T* x;
  const T* residual;
  const T* weight;
  T* y;
  float* rstd;  // [rows]
  int32 width;
  float epsilon;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kWarp];
    const int64 begin = static_cast<int64>(block()) * width;
    float squares = 0.0f;
    for (int32 c = N * static_cast<int32>(thread()); c < width; c += N * kThreads) {
      float a[N];
      load_pack<N>(x + begin + c, a);
      if (residual != nullptr) {
        float r[N];
        load_pack<N>(residual + begin + c, r);
        MOELORA_UNROLL
        for (int n = 0; n < N; ++n) {
          a[n] = rounded<T>(a[n] + r[n]);
        }
        store_pack<N>(x + begin + c, a);
      }
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        squares += a[n] * a[n];
      }
    }
    const float inverse =
        1.0f / square_root(block_sum<kThreads>(squares, shared) / static_cast<float>(width) + epsilon);
    if (thread() == 0) {
      rstd[block()] = inverse;
    }
    rms_normalise_row<kThreads, N>(x + begin, weight, y + begin, width, inverse);  // each thread reads what it wrote
  }
};

/// y = round(x · rstd) · weight again, from the statistic.
template <typename T, int N>
struct RmsNormaliseAgain {
  static constexpr const char* kName = "RmsNormaliseAgain";
  static constexpr const char* kFile = "rms_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* x;
  const float* rstd;
  const T* weight;
  T* y;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    const int64 begin = static_cast<int64>(block()) * width;
    rms_normalise_row<kThreads, N>(x + begin, weight, y + begin, static_cast<int32>(width), rstd[block()]);
  }
};

/// With g = dy · weight:  dy := rstd · (g - x · rstd² · average of g·x) + dresidual (null: nothing). Reads dy and x
/// twice (the second time from the cache), writes dy once.
template <typename T, int N>
struct RmsNormaliseBackward {
  static constexpr const char* kName = "RmsNormaliseBackward";
  static constexpr const char* kFile = "rms_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  T* dy;
  const T* dresidual;
  const T* x;
  const float* rstd;
  const T* weight;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kWarp];
    const int64 begin = static_cast<int64>(block()) * width;
    const int64 first = N * static_cast<int64>(thread());
    const float inverse = rstd[block()];
    float products = 0.0f;
    for (int64 c = first; c < width; c += N * kThreads) {
      float g[N], w[N], a[N];
      load_pack<N>(dy + begin + c, g);
      load_pack<N>(weight + c, w);
      load_pack<N>(x + begin + c, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        products += g[n] * w[n] * (a[n] * inverse);
      }
    }
    const float share = block_sum<kThreads>(products, shared) / static_cast<float>(width);
    for (int64 c = first; c < width; c += N * kThreads) {
      float g[N], w[N], a[N];
      load_pack<N>(dy + begin + c, g);
      load_pack<N>(weight + c, w);
      load_pack<N>(x + begin + c, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        g[n] = inverse * (g[n] * w[n] - a[n] * inverse * share);
      }
      if (dresidual != nullptr) {
        float r[N];
        load_pack<N>(dresidual + begin + c, r);
        MOELORA_UNROLL
        for (int n = 0; n < N; ++n) {
          g[n] += r[n];
        }
      }
      store_pack<N>(dy + begin + c, g);
    }
  }
};

}  // namespace moelora::device
