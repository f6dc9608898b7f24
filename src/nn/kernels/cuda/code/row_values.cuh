#pragma once
// Rows as backward sees them: stored, or a cheap function of what is stored, computed again in registers
// (moelora/nn/row_source.h). A thread holds kPack neighbouring columns.

#include "gelu.cuh"

namespace moelora::device {

/// kPack elements of a row from `column` on; 0 from `end` on. `packed`: every multiple of kPack is aligned.
template <typename T>
MOELORA_DEVICE void load_columns(const T* row, int64 column, int64 end, bool packed, float* x) {
  if (packed && column < end) {
    load_pack<kPack>(row + column, x);
    return;
  }
  MOELORA_UNROLL
  for (int i = 0; i < kPack; ++i) {
    x[i] = column + i < end ? load(row + column + i) : 0.0f;
  }
}
template <typename T>
MOELORA_DEVICE void store_columns(T* row, int64 column, int64 end, bool packed, const float* x) {
  if (packed && column < end) {
    store_pack<kPack>(row + column, x);
    return;
  }
  MOELORA_UNROLL
  for (int i = 0; i < kPack; ++i) {
    if (column + i < end) {
      store(row + column + i, x[i]);
    }
  }
}

enum class RowFunction : int32 { stored, gelu, normalised };

/// [rows, width]
template <typename T>
struct RowValues {
  const T* x;
  RowFunction function;
  int32 packed;       // as in load_columns
  const float* mean;  // [rows]; these four for normalised rows only
  const float* rstd;
  const T* weight;  // [width]
  const T* bias;

  /// The kPack values of a row from `column` on, rounded as the forward's were; 0 from `width` on.
  MOELORA_DEVICE void columns(int64 row, int64 column, int64 width, float* values) const {
    load_columns(x + row * width, column, width, packed, values);
    if (function == RowFunction::gelu) {
      MOELORA_UNROLL
      for (int i = 0; i < kPack; ++i) {
        values[i] = rounded<T>(gelu_of(values[i]));
      }
    } else if (function == RowFunction::normalised) {
      const float center = mean[row];
      const float inverse = rstd[row];
      float w[kPack], b[kPack];
      load_columns(weight, column, width, packed, w);
      load_columns(bias, column, width, packed, b);
      MOELORA_UNROLL
      for (int i = 0; i < kPack; ++i) {
        values[i] = rounded<T>((values[i] - center) * inverse * w[i] + b[i]);
      }
    }
  }
};

}  // namespace moelora::device
