#pragma once
// Gradients of a low-rank update's factors: dA = (w ⊙ dv)^T drop(x) and dB^T = (w ⊙ u)^T dy, sums over rows in two
// stages of fixed order.

#include "low_rank.cuh"

namespace moelora::device {

/// One of the two factors: sums[s][k][c] = Σ over the s-th range of rows of w[row][k] · inner[row][k] · rows[row][c].
template <typename T>
struct FactorSums {
  RowValues<T> values;
  KeyedMask mask;  // of `values`
  Inner inner;
  int64 width;
  int64 column_blocks;
  float* sums;  // [ranges, rank, width]
};

/// Sums of both factors over ranges of rows: dy and x are read once each for kEntries entries. A block has 128 columns;
/// its warps take rows in turn, and their sums are added in order.
template <typename T>
struct SumFactorGradients {
  static constexpr const char* kName = "SumFactorGradients";
  static constexpr const char* kFile = "low_rank_gradients.cuh";
  static constexpr uint32 kThreads = kProjectionThreads;
  static constexpr int kBlocksAtOnce = 2;
  static constexpr bool kBarriers = true;
  static constexpr int kRows = 8;  // of a warp, at once
  static constexpr int kBlockRows = kRows * kWarps;
  static constexpr int kColumns = kWarp * kPack;

  FactorSums<T> a;
  FactorSums<T> b;
  EntryWeights weights;
  int64 rows;
  int64 range;  // rows of a range, a multiple of kBlockRows

  MOELORA_DEVICE void operator()() const {
    alignas(16) MOELORA_SHARED float shared[kBlockRows * kEntries + kEntries * kColumns];
    MOELORA_SHARED MaskKeys<kBlockRows> keys;
    const uint32 tiles = static_cast<uint32>((a.inner.rank + kEntries - 1) / kEntries);
    const int64 column_block = block() / tiles;
    const int32 first_entry = static_cast<int32>(block() % tiles) * kEntries;
    if (column_block < a.column_blocks) {
      sum<true>(a, column_block, first_entry, shared, keys);
    } else {
      sum<false>(b, column_block - a.column_blocks, first_entry, shared, keys);
    }
  }

 private:
  template <bool kOfInput>
  MOELORA_DEVICE void sum(const FactorSums<T>& factor, int64 column_block, int32 first_entry, float* weighed,
                          MaskKeys<kBlockRows>& keys) const {
    float* total = weighed + kBlockRows * kEntries;
    const int64 column = column_block * kColumns + lane() * kPack;
    const int64 begin = block_y() * range;
    const int64 end = begin + range < rows ? begin + range : rows;
    const bool drops = kOfInput && factor.mask.draw_of_row != nullptr;
    const int32 rank = factor.inner.rank;
    float sums[kEntries][kPack] = {};
    for (int64 first = begin; first < end; first += kBlockRows) {
      barrier();
      MOELORA_UNROLL
      for (int i = 0; i < kBlockRows * kEntries; i += kThreads) {
        const int place = i + static_cast<int>(thread());
        const int64 row = first + place / kEntries;
        const int32 entry = first_entry + place % kEntries;
        weighed[place] = row < end && entry < rank ? factor.inner.at(row, entry) * weights.at(row, entry) : 0.0f;
      }
      if (drops && thread() < kBlockRows) {
        keys.draw(factor.mask, first + thread(), end);
      }
      barrier();
      MOELORA_UNROLL_TWICE
      for (int r = 0; r < kRows; ++r) {
        const uint32 place = warp() * kRows + r;
        const int64 row = first + place;
        if (row < end) {
          float values[kPack];
          if (kOfInput) {
            factor.values.columns(row, column, factor.width, values);
          } else {
            load_columns(factor.values.x + row * factor.width, column, factor.width, factor.values.packed, values);
          }
          if (drops) {
            keys.row(factor.mask, place).drop(static_cast<uint32>(column), values);
          }
          MOELORA_UNROLL
          for (int k = 0; k < kEntries; k += kPack) {
            float entries[kPack];
            load_pack<kPack>(weighed + place * kEntries + k, entries);
            MOELORA_UNROLL
            for (int j = 0; j < kPack; ++j) {
              MOELORA_UNROLL
              for (int i = 0; i < kPack; ++i) {
                sums[k + j][i] += entries[j] * values[i];
              }
            }
          }
        }
      }
    }
    for (uint32 turn = 0; turn < kWarps; ++turn) {
      barrier();
      if (warp() == turn) {
        MOELORA_UNROLL
        for (int k = 0; k < kEntries; ++k) {
          float* place = total + k * kColumns + lane() * kPack;
          float four[kPack] = {};
          if (turn > 0) {
            load_pack<kPack>(place, four);
          }
          MOELORA_UNROLL
          for (int i = 0; i < kPack; ++i) {
            four[i] += sums[k][i];
          }
          store_pack<kPack>(place, four);
        }
      }
    }
    barrier();
    for (int i = static_cast<int>(thread()); i < kEntries * kColumns; i += kThreads) {
      const int32 entry = first_entry + i / kColumns;
      const int64 c = column_block * kColumns + i % kColumns;
      if (entry < rank && c < factor.width) {
        factor.sums[(block_y() * static_cast<int64>(rank) + entry) * factor.width + c] = total[i];
      }
    }
  }
};

/// dA [rank, d_in] and dB [d_out, rank] from the sums over ranges of rows, which are added in order. An element of a
/// factor for each thread.
struct AddFactorSums {
  static constexpr const char* kName = "AddFactorSums";
  static constexpr const char* kFile = "low_rank_gradients.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  const float* sums_a;  // [ranges, rank, d_in]
  const float* sums_b;  // [ranges, rank, d_out]
  float* dA;
  float* dB;
  int64 d_in;
  int64 d_out;
  int32 rank;
  int32 ranges;

  MOELORA_DEVICE void operator()() const {
    const int64 i = static_cast<int64>(block()) * kThreads + thread();
    const int64 of_a = rank * d_in;
    const int64 of_b = rank * d_out;
    if (i < of_a) {
      dA[i] = total(sums_a + i, of_a);
    } else if (i < of_a + of_b) {
      const int64 place = i - of_a;
      dB[place % d_out * rank + place / d_out] = total(sums_b + place, of_b);
    }
  }

 private:
  MOELORA_DEVICE float total(const float* first, int64 stride) const {
    float sum = 0.0f;
    for (int32 s = 0; s < ranges; ++s) {
      sum += first[s * stride];
    }
    return sum;
  }
};

}  // namespace moelora::device
