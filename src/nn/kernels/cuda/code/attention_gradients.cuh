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

/// One row for each block; y: 0 for dq, 1 for dk, 2 for dv. A bidirectional row has its dq from the call over parts,
/// its dk and dv from both; a causal row has all of them from the call over causal rows, and what the other call left
/// there is not read. Query heads that share a key head are summed in their order. N neighbours for each thread. Reads
/// each gradient that counts once.
template <typename T, int N>
struct JoinGradients {
  static constexpr const char* kName = "JoinGradients";
  static constexpr const char* kFile = "attention_gradients.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* part_dq;            // [rows, heads, width]; all three null: there was no such call, and no row was in it
  const T* part_dk;            // [rows, heads, width]
  const T* part_dv;            // [rows, heads, width]
  const T* causal_dq;          // [causal rows, heads, width]; all three null: likewise
  const T* causal_dk;          // [rows, heads, width]
  const T* causal_dv;          // [rows, heads, width]
  const int32* causal_of_row;  // [rows]: which of the causal rows it is, or -1
  HeadPlaces<T> dq, dk, dv;
  int32 heads;
  int32 kv_heads;
  int64 width;

  /// to [count, width] = the sums of `group` heads each of one and of other, whichever is not null.
  MOELORA_DEVICE void write(const T* one, const T* other, int32 group, int32 count, const HeadPlaces<T>& to,
                            int64 row) const {
    const int32 packs = static_cast<int32>(width) / N;
    for (int32 item = static_cast<int32>(thread()); item < count * packs; item += static_cast<int32>(kThreads)) {
      const int32 head = item / packs;
      const int32 column = item % packs * N;
      float sum[N];
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        sum[n] = 0.0f;
      }
      for (int32 i = head * group; i < (head + 1) * group; ++i) {
        if (one != nullptr) {
          add(one + i * width + column, sum);
        }
        if (other != nullptr) {
          add(other + i * width + column, sum);
        }
      }
      store_pack<N>(to.first + row * to.row_stride + head * to.head_stride + column, sum);
    }
  }
  MOELORA_DEVICE static void add(const T* place, float* sum) {
    float x[N];
    load_pack<N>(place, x);
    MOELORA_UNROLL
    for (int n = 0; n < N; ++n) {
      sum[n] += x[n];
    }
  }

  MOELORA_DEVICE void operator()() const {
    const int64 row = block();
    const int64 from = row * heads * width;
    const int32 causal = causal_of_row[row];
    const bool in_part = causal < 0;
    const auto beginning = [from](const T* x) { return x != nullptr ? x + from : nullptr; };
    if (block_y() == 0) {
      const T* x = in_part ? part_dq + from : causal_dq + causal * heads * width;
      write(x, nullptr, 1, heads, dq, row);
    } else {
      const T* part = in_part ? (block_y() == 1 ? part_dk : part_dv) : nullptr;
      const T* whole = block_y() == 1 ? causal_dk : causal_dv;
      const HeadPlaces<T> places = block_y() == 1 ? dk : dv;
      write(beginning(part), beginning(whole), heads / kv_heads, kv_heads, places, row);
    }
  }
};

}  // namespace moelora::device
