#pragma once
// Layer normalisation over rows with the residual that goes with it, in fp32. One row for each block; a row that was
// read once comes from the cache afterwards. The CPU's twin: kernels/cpu/isa/layer_norm.cpp and LibTorch's.

#include "elements.cuh"

namespace moelora::device {

/// A row's y = (x - average) · inverse · weight + bias, by all threads of its block.
template <uint32 kThreads, int N, typename T>
MOELORA_DEVICE void normalise_row(const T* x, const T* weight, const T* bias, T* y, int64 width, float average,
                                  float inverse) {
  for (int64 c = N * static_cast<int64>(thread()); c < width; c += N * kThreads) {
    float a[N], w[N], b[N];
    load_pack<N>(x + c, a);
    load_pack<N>(weight + c, w);
    load_pack<N>(bias + c, b);
    MOELORA_UNROLL
    for (int n = 0; n < N; ++n) {
      a[n] = (a[n] - average) * inverse * w[n] + b[n];
    }
    store_pack<N>(y + c, a);
  }
}

/// x := x + scale · residual, rounded (residual null: x stays); y = norm of what x is then; mean and rstd for backward.
/// x, residual, y [rows, width], weight and bias [width].
template <typename T, int N>
struct AddAndNormalise {
  static constexpr const char* kName = "AddAndNormalise";
  static constexpr const char* kFile = "layer_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  T* x;
  const T* residual;
  float scale;
  float epsilon;
  const T* weight;
  const T* bias;
  T* y;
  float* mean;  // [rows]
  float* rstd;  // [rows]
  int64 width;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[2 * kWarp];
    const int64 begin = static_cast<int64>(block()) * width;
    const int64 first = N * static_cast<int64>(thread());
    float sum = 0.0f;
    for (int64 c = first; c < width; c += N * kThreads) {
      float a[N];
      load_pack<N>(x + begin + c, a);
      if (residual != nullptr) {
        float r[N];
        load_pack<N>(residual + begin + c, r);
        MOELORA_UNROLL
        for (int n = 0; n < N; ++n) {
          a[n] = rounded<T>(a[n] + scale * r[n]);
        }
        store_pack<N>(x + begin + c, a);
      }
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        sum += a[n];
      }
    }
    const float average = block_sum<kThreads>(sum, shared) / static_cast<float>(width);
    float squares = 0.0f;
    for (int64 c = first; c < width; c += N * kThreads) {  // each thread reads what it wrote
      float a[N];
      load_pack<N>(x + begin + c, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        squares += (a[n] - average) * (a[n] - average);
      }
    }
    const float variance = block_sum<kThreads>(squares, shared + kWarp) / static_cast<float>(width);
    const float inverse = 1.0f / square_root(variance + epsilon);
    if (thread() == 0) {
      mean[block()] = average;
      rstd[block()] = inverse;
    }
    normalise_row<kThreads, N>(x + begin, weight, bias, y + begin, width, average, inverse);
  }
};

/// y = (x - mean) · rstd · weight + bias again, from the statistics.
template <typename T, int N>
struct NormaliseAgain {
  static constexpr const char* kName = "NormaliseAgain";
  static constexpr const char* kFile = "layer_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* x;
  const float* mean;
  const float* rstd;
  const T* weight;
  const T* bias;
  T* y;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    const int64 begin = static_cast<int64>(block()) * width;
    normalise_row<kThreads, N>(x + begin, weight, bias, y + begin, width, mean[block()], rstd[block()]);
  }
};

/// dx of a norm whose output y goes two ways, into what gave dy and as scale · y into what gave dresidual (null: it
/// does not): with g = (dy + scale · dresidual) · weight and h = (x - mean) · rstd,
///   dx = rstd · (g - average of g - h · average of g·h).
/// In place of dy. Reads dy, dresidual and x twice (the second time from the cache), writes dx once.
template <typename T, int N>
struct NormaliseBackward {
  static constexpr const char* kName = "NormaliseBackward";
  static constexpr const char* kFile = "layer_norm.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  T* dy;
  const T* dresidual;
  float scale;
  int32 width;
  const T* x;
  const float* mean;
  const float* rstd;
  const T* weight;

  MOELORA_DEVICE void gradient_of(int64 place, int64 c, float* g) const {
    float w[N];
    load_pack<N>(dy + place, g);
    load_pack<N>(weight + c, w);
    if (dresidual != nullptr) {
      float r[N];
      load_pack<N>(dresidual + place, r);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        g[n] += scale * r[n];
      }
    }
    MOELORA_UNROLL
    for (int n = 0; n < N; ++n) {
      g[n] *= w[n];
    }
  }

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[2 * kWarp];
    const int64 begin = static_cast<int64>(block()) * width;
    const int64 first = N * static_cast<int64>(thread());
    const float average = mean[block()];
    const float inverse = rstd[block()];
    float sum = 0.0f;
    float products = 0.0f;
    for (int64 c = first; c < width; c += N * kThreads) {
      float g[N], a[N];
      gradient_of(begin + c, c, g);
      load_pack<N>(x + begin + c, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        sum += g[n];
        products += g[n] * ((a[n] - average) * inverse);
      }
    }
    const float of_sum = block_sum<kThreads>(sum, shared) / static_cast<float>(width);
    const float of_products = block_sum<kThreads>(products, shared + kWarp) / static_cast<float>(width);
    for (int64 c = first; c < width; c += N * kThreads) {
      float g[N], a[N];
      gradient_of(begin + c, c, g);
      load_pack<N>(x + begin + c, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        g[n] = inverse * (g[n] - of_sum - (a[n] - average) * inverse * of_products);
      }
      store_pack<N>(dy + begin + c, g);
    }
  }
};

}  // namespace moelora::device
