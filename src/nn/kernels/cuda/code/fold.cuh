#pragma once
// A low-rank update added to a weight in one pass: out = round(source + B A). Each sum is made in fp32 from the first
// to the last of the ranks by fused products, as the CPU's kernels with such instructions do it
// (kernels/cpu/isa/fold.cpp).
//
// A warp has kRows rows and 32 · kPack columns, whose sums stay in registers; a block's warps have the same columns, so
// that their part of A comes from the first-level cache. The weight is read and written once, a warp's lanes side by
// side; of B all lanes read the same place.

#include "elements.cuh"

namespace moelora::device {

template <typename T, int kPack>
struct Fold {
  static constexpr const char* kName = "Fold";
  static constexpr const char* kFile = "fold.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;
  static constexpr int kRows = 8;                                        // of a warp
  static constexpr int kBlockRows = kRows * kThreads / kWarp;            // of a block
  static constexpr int kBlockColumns = static_cast<int>(kWarp) * kPack;  // of a block

  const T* source;  // [rows, columns]; may be out
  T* out;
  const float* b;  // [rows, rank]
  const float* a;  // [rank, columns]
  int64 rows;
  int64 columns;
  int64 rank;
  double* extremes;  // [2, blocks of the grid]: largest rounding and update of each; or null: not measured

  /// sum[i][v] += Σ_k b[row + i, k] · a[k, column + v], k ascending.
  template <typename Sum>
  MOELORA_DEVICE void add_products(int64 row, int64 column, Sum (&sum)[kRows][kPack]) const {
    constexpr int kSteps = 4;
    const bool whole = rank % kSteps == 0;
    for (int64 k = 0; k < rank; k += kSteps) {
      float left[kRows][kSteps];
      MOELORA_UNROLL
      for (int i = 0; i < kRows; ++i) {
        const int64 last = rows - 1;
        const float* place = b + (row + i < last ? row + i : last) * rank + k;
        if (whole) {
          load_pack<kSteps>(place, left[i]);
        } else {
          MOELORA_UNROLL
          for (int step = 0; step < kSteps; ++step) {
            left[i][step] = k + step < rank ? place[step] : 0.0f;
          }
        }
      }
      MOELORA_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        if (k + step < rank) {
          float right[kPack];
          load_pack<kPack>(a + (k + step) * columns + column, right);
          MOELORA_UNROLL
          for (int i = 0; i < kRows; ++i) {
            MOELORA_UNROLL
            for (int v = 0; v < kPack; ++v) {
              sum[i][v] = multiply_add(static_cast<Sum>(left[i][step]), static_cast<Sum>(right[v]), sum[i][v]);
            }
          }
        }
      }
    }
  }

  /// A difference that is no number counts as infinite.
  MOELORA_DEVICE static void take(double difference, double& largest) {
    const double size = difference < 0.0 ? -difference : difference;
    largest = size <= largest ? largest : size == size ? size : infinity();
  }

  MOELORA_DEVICE void fold(int64 row, int64 column, double& rounding, double& update) const {
    float sum[kRows][kPack] = {};
    add_products(row, column, sum);
    constexpr bool kWide = sizeof(T) == sizeof(float);  // measured against sums in fp64
    double wide[kWide ? kRows : 1][kPack] = {};
    if constexpr (kWide) {
      if (extremes != nullptr) {
        add_products(row, column, wide);
      }
    }
    MOELORA_UNROLL
    for (int i = 0; i < kRows; ++i) {
      if (row + i < rows) {
        const int64 place = (row + i) * columns + column;
        float before[kPack];
        load_pack<kPack>(source + place, before);
        float exact[kPack];
        MOELORA_UNROLL
        for (int v = 0; v < kPack; ++v) {
          exact[v] = before[v] + sum[i][v];
          if (extremes != nullptr) {
            T rounded;
            from_float(exact[v], rounded);
            const double added = kWide ? wide[kWide ? i : 0][v] : static_cast<double>(sum[i][v]);
            const double wanted = kWide ? before[v] + added : static_cast<double>(exact[v]);
            take(to_float(rounded) - wanted, rounding);
            take(added, update);
          }
        }
        store_pack<kPack>(out + place, exact);
      }
    }
  }

  MOELORA_DEVICE void operator()() const {
    const int64 row = static_cast<int64>(block()) * kBlockRows + warp() * kRows;
    const int64 column = static_cast<int64>(block_y()) * kBlockColumns + lane() * kPack;
    double rounding = 0.0;
    double update = 0.0;
    if (row < rows && column < columns) {
      fold(row, column, rounding, update);
    }
    if (extremes == nullptr) {
      return;
    }
    MOELORA_SHARED double shared[2][kThreads];
    shared[0][thread()] = rounding;
    shared[1][thread()] = update;
    for (uint32 half = kThreads / 2; half > 0; half /= 2) {
      barrier();
      if (thread() < half) {
        for (auto& of : shared) {
          of[thread()] = of[thread()] < of[thread() + half] ? of[thread() + half] : of[thread()];
        }
      }
    }
    if (thread() == 0) {
      const int64 count = static_cast<int64>(blocks()) * blocks_y();
      const int64 place = static_cast<int64>(block_y()) * blocks() + block();
      extremes[place] = shared[0][0];
      extremes[count + place] = shared[1][0];
    }
  }
};

}  // namespace moelora::device
