#pragma once
// Keyed dropout: the mask of the CPU's kernel (kernels/cpu/isa/dropout.cpp), bit for bit, drawn in registers wherever
// it is needed and never stored.

#include "elements.cuh"
#include "random.cuh"

namespace moelora::device {

/// The mask of one row.
struct RowMask {
  uint32 low;
  uint32 high;
  uint32 threshold;
  float scale;

  /// What element `column` is multiplied by: `scale`, or 0 where it is dropped. "lowbias32" over a keyed counter.
  MOELORA_DEVICE float factor(uint32 column) const {
    uint32 h = (low + column * 0x9e3779b9u) ^ high;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    h ^= h >> 16;
    return h >= threshold ? scale : 0.0f;
  }
  /// N neighbours from `column` on.
  template <int N>
  MOELORA_DEVICE void drop(uint32 column, float (&values)[N]) const {
    MOELORA_UNROLL
    for (int i = 0; i < N; ++i) {
      values[i] *= factor(column + i);
    }
  }
};

/// The mask of one linear. Without draws nothing is dropped: threshold 0 and scale 1.
struct KeyedMask {
  const int64* draw_of_row;     // [rows], or null
  const int64* row_in_segment;  // [rows]
  uint64 stem;                  // of seed and linear
  uint32 threshold;
  float scale;

  MOELORA_DEVICE RowMask row(int64 row) const {
    if (draw_of_row == nullptr) {
      return {0u, 0u, 0u, 1.0f};
    }
    const uint64 sample = splitmix(stem ^ static_cast<uint64>(draw_of_row[row]));
    const uint64 key = splitmix(sample ^ static_cast<uint64>(row_in_segment[row]));
    return {static_cast<uint32>(key), static_cast<uint32>(key >> 32), threshold, scale};
  }
};

/// y = x ⊙ mask, [rows, width]; a row for each block. Reads x once, writes y once.
template <typename T, int N>
struct DropRows {
  static constexpr const char* kName = "DropRows";
  static constexpr const char* kFile = "dropout.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const T* x;
  T* y;
  KeyedMask mask;
  int64 width;

  MOELORA_DEVICE void operator()() const {
    const int64 begin = static_cast<int64>(block()) * width;
    const RowMask row = mask.row(block());
    for (int64 c = N * static_cast<int64>(thread()); c < width; c += N * kThreads) {
      float values[N];
      load_pack<N>(x + begin + c, values);
      row.drop(static_cast<uint32>(c), values);
      store_pack<N>(y + begin + c, values);
    }
  }
};

}  // namespace moelora::device
