#pragma once
// GELU (tanh form) and SwiGLU with their backward, which computes the function's parts again, in fp32. Each reads its
// inputs once and writes its output once; N neighbours for each thread. The CPU's twins: kernels/cpu/isa/gelu.cpp and
// swiglu.cpp.

#include "elements.cuh"

namespace moelora::device {

constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

/// With u = sqrt(2/pi) (x + 0.044715 x^3): 0.5 (1 + tanh u) is the logistic function s of 2u, and its slope s (1 - s),
/// by which neither tail loses digits.
struct GeluParts {
  float share;  // s
  float slope;  // s (1 - s)

  MOELORA_DEVICE explicit GeluParts(float x) {
    const float u = kGeluScale * (x + kGeluCubic * x * x * x);
    const float e = exponential(-2.0f * (u < 0.0f ? -u : u));
    const float d = 1.0f / (1.0f + e);
    share = u < 0.0f ? e * d : d;
    slope = e * d * d;
  }
};

MOELORA_DEVICE float gelu_of(float x) { return x * GeluParts(x).share; }
MOELORA_DEVICE float gelu_derivative(float x) {
  const GeluParts parts(x);
  return parts.share + 2.0f * x * parts.slope * kGeluScale * (1.0f + 3.0f * kGeluCubic * x * x);
}
MOELORA_DEVICE float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

/// y = gelu(x), `count` elements; y may be x.
template <typename T, int N>
struct Gelu {
  static constexpr const char* kName = "Gelu";
  static constexpr const char* kFile = "gelu.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* x;
  T* y;
  int64 count;

  MOELORA_DEVICE void operator()() const {
    const int64 i = N * (static_cast<int64>(block()) * kThreads + thread());
    if (i < count) {
      float a[N];
      load_pack<N>(x + i, a);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        a[n] = gelu_of(a[n]);
      }
      store_pack<N>(y + i, a);
    }
  }
};

/// dy := dy · gelu'(x).
template <typename T, int N>
struct GeluBackward {
  static constexpr const char* kName = "GeluBackward";
  static constexpr const char* kFile = "gelu.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* x;
  T* dy;
  int64 count;

  MOELORA_DEVICE void operator()() const {
    const int64 i = N * (static_cast<int64>(block()) * kThreads + thread());
    if (i < count) {
      float a[N], g[N];
      load_pack<N>(x + i, a);
      load_pack<N>(dy + i, g);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        g[n] *= gelu_derivative(a[n]);
      }
      store_pack<N>(dy + i, g);
    }
  }
};

/// y = gate · logistic(gate) · up. gate and up [rows, width] lie in rows that are gate_stride and up_stride apart, y
/// contiguous. One row for each block, columns along the grid's other axis.
template <typename T, int N>
struct SwiGlu {
  static constexpr const char* kName = "SwiGlu";
  static constexpr const char* kFile = "gelu.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* gate;
  const T* up;
  T* y;
  int64 gate_stride;
  int64 up_stride;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    const int64 row = block();
    const int64 c = N * (static_cast<int64>(block_y()) * kThreads + thread());
    if (c < width) {
      float g[N], u[N];
      load_pack<N>(gate + row * gate_stride + c, g);
      load_pack<N>(up + row * up_stride + c, u);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        u[n] *= g[n] * logistic(g[n]);
      }
      store_pack<N>(y + row * width + c, u);
    }
  }
};

/// dgate and dup of SwiGlu from dy [rows, width] contiguous; dup may be dy.
template <typename T, int N>
struct SwiGluBackward {
  static constexpr const char* kName = "SwiGluBackward";
  static constexpr const char* kFile = "gelu.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* gate;
  const T* up;
  const T* dy;
  T* dgate;
  T* dup;
  int64 gate_stride;
  int64 up_stride;
  int64 dgate_stride;
  int64 dup_stride;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    const int64 row = block();
    const int64 c = N * (static_cast<int64>(block_y()) * kThreads + thread());
    if (c < width) {
      float g[N], u[N], d[N];
      load_pack<N>(gate + row * gate_stride + c, g);
      load_pack<N>(up + row * up_stride + c, u);
      load_pack<N>(dy + row * width + c, d);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        const float s = logistic(g[n]);
        u[n] *= d[n] * s * (1.0f + g[n] * (1.0f - s));
        d[n] *= g[n] * s;
      }
      store_pack<N>(dgate + row * dgate_stride + c, u);
      store_pack<N>(dup + row * dup_stride + c, d);
    }
  }
};

}  // namespace moelora::device
