#pragma once
// What the two backward calls of attention over packed rows (nn/device_attention.h) leave, put together.

#include "elements.cuh"

namespace moelora::device {

/// Where gradients of one kind of head go: packed with others, or alone.
template <typename T>
struct HeadPlaces {
  T* first;
  int64 row_stride;
  int64 head_stride;
};

/// One row for each block. A bidirectional row has its dq from the call over parts, its dk and dv from both; a causal
/// row has all of them from the call over causal rows, and what the other call left there is not read. Query heads that
/// share a key head are summed in their order. N neighbours for each thread. Reads each gradient that counts once.
template <typename T, int N>
struct JoinGradients {
  static constexpr const char* kName = "JoinGradients";
  static constexpr const char* kFile = "attention_gradients.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* part_dq;    // [rows, heads, width]
  const T* part_dk;    // [rows, heads, width]
  const T* part_dv;    // [rows, heads, width]
  const T* causal_dq;  // [causal rows, heads, width]
  const T* causal_dk;  // [rows, heads, width]
  const T* causal_dv;  // [rows, heads, width]
  const int32* causal_of_row;  // [rows]: which of the causal rows it is, or -1
  HeadPlaces<T> dq, dk, dv;
  int32 heads;
  int32 kv_heads;
  int32 width;

  MOELORA_DEVICE void sum_of_group(const T* x, bool take, float* sum) const {
    for (int32 i = 0; take && i < heads / kv_heads; ++i) {
      float more[N];
      load_pack<N>(x + i * width, more);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        sum[n] += more[n];
      }
    }
  }

  MOELORA_DEVICE void join(const T* part, const T* causal, bool in_part, int64 from, T* to) const {
    float sum[N];
    MOELORA_UNROLL
    for (int n = 0; n < N; ++n) {
      sum[n] = 0.0f;
    }
    sum_of_group(part + from, in_part, sum);
    sum_of_group(causal + from, true, sum);
    store_pack<N>(to, sum);
  }

  MOELORA_DEVICE void operator()() const {
    const int64 row = block();
    const int32 causal = causal_of_row[row];
    const int32 packs = width / N;
    const T* queries = causal < 0 ? part_dq + row * heads * width
                                  : causal_dq + static_cast<int64>(causal) * heads * width;
    for (int32 item = static_cast<int32>(thread()); item < heads * packs; item += static_cast<int32>(kThreads)) {
      const int32 head = item / packs;
      const int32 column = item % packs * N;
      float x[N];
      load_pack<N>(queries + head * width + column, x);
      store_pack<N>(dq.first + row * dq.row_stride + head * dq.head_stride + column, x);
    }
    for (int32 item = static_cast<int32>(thread()); item < kv_heads * packs; item += static_cast<int32>(kThreads)) {
      const int32 head = item / packs;
      const int32 column = item % packs * N;
      const int64 from = (row * heads + head * (heads / kv_heads)) * width + column;
      join(part_dk, causal_dk, causal < 0, from, dk.first + row * dk.row_stride + head * dk.head_stride + column);
      join(part_dv, causal_dv, causal < 0, from, dv.first + row * dv.row_stride + head * dv.head_stride + column);
    }
  }
};

}  // namespace moelora::device
