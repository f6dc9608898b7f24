#pragma once
// Rotary positions (moelora/nn/rotary.h) in place, in fp32. The CPU's twin: kernels/cpu/isa/rotary.cpp.

#include "elements.cuh"

namespace moelora::device {

/// The pairs of a head's first `dim` columns: pair i of each `block` columns is (i·step, i·step + offset).
struct RotaryPairs {
  int32 dim;
  int32 block;
  int32 offset;
  int32 step;

  /// First column of pair i, 0 <= i < dim / 2.
  MOELORA_DEVICE int32 first(int32 i) const {
    const int32 half = block / 2;
    return i / half * block + i % half * step;
  }
};

/// (a, b) of N pairs turned by the angles of their columns.
template <int N>
MOELORA_DEVICE void turn(float* a, float* b, const float* cos_a, const float* cos_b, const float* sin_a,
                         const float* sin_b, float sign) {
  MOELORA_UNROLL
  for (int i = 0; i < N; ++i) {
    const float x = a[i];
    a[i] = x * cos_a[i] - b[i] * (sign * sin_a[i]);
    b[i] = b[i] * cos_b[i] + x * (sign * sin_b[i]);
  }
}

/// Queries and keys of one row for each block, in place, wherever the packed q, k, v have them: head h of q begins at
/// q + row · row_stride + h · head_stride, of k likewise. N neighbouring pairs for each thread (1: any layout; 4: pairs
/// whose members lie apart). Reads and writes q and k once; the tables stay in the cache from head to head.
template <typename T, int N>
struct RotateRows {
  static constexpr const char* kName = "RotateRows";
  static constexpr const char* kFile = "rotary.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  T* q;
  T* k;
  int64 q_row_stride, q_head_stride;
  int64 k_row_stride, k_head_stride;
  const T* cos;  // [rows, dim]
  const T* sin;
  RotaryPairs pairs;
  int64 heads;
  int32 k_heads;
  float sign;  // -1: turns back

  MOELORA_DEVICE void operator()() const {
    const int64 row = block();
    const int32 packs = pairs.dim / (2 * N);  // of a head
    const int32 total = (static_cast<int32>(heads) + k_heads) * packs;
    for (int32 item = static_cast<int32>(thread()); item < total; item += static_cast<int32>(kThreads)) {
      const int32 head = item / packs;
      const int32 column = pairs.first(item % packs * N);
      T* place = head < heads ? q + row * q_row_stride + head * q_head_stride
                              : k + row * k_row_stride + (head - heads) * k_head_stride;
      place += column;
      const T* c = cos + row * pairs.dim + column;
      const T* s = sin + row * pairs.dim + column;
      float a[N], b[N], cos_a[N], cos_b[N], sin_a[N], sin_b[N];
      load_pack<N>(place, a);
      load_pack<N>(place + pairs.offset, b);
      load_pack<N>(c, cos_a);
      load_pack<N>(c + pairs.offset, cos_b);
      load_pack<N>(s, sin_a);
      load_pack<N>(s + pairs.offset, sin_b);
      turn<N>(a, b, cos_a, cos_b, sin_a, sin_b, sign);
      store_pack<N>(place, a);
      store_pack<N>(place + pairs.offset, b);
    }
  }
};

}  // namespace moelora::device
