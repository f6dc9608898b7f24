#pragma once
// Linears of the few rows of a decoding step, where the time is that of reading the weight: y = x W^T + bias + v B^T in
// one pass over W, with the low-rank part v = s · g ⊙ (x A^T) of an adapter in a launch before it. A and B stay in
// fp32, sums are fp32, and y is rounded once.

#include "elements.cuh"

namespace moelora::device {

constexpr int kRowsAtOnce = 8;

/// v [rows, rank]: a block for each column of v (x) and kRowsAtOnce rows (y).
template <typename T>
struct FewRowsDown {
  static constexpr const char* kName = "FewRowsDown";
  static constexpr const char* kFile = "few_rows.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  const T* x;                 // [rows, width]
  const float* a;             // [rank, width]
  const float* omega;         // [n, experts], or null: one expert
  const int64* omega_of_row;  // [rows]: which row of omega
  int64 omega_stride;         // of its rows
  int64 share;                // columns of v of one expert
  float scaling;
  float* v;
  int64 rows;
  int64 width;
  int64 packed;  // width is a multiple of kPack, and all rows are aligned to it

  static constexpr int kPack = 4;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kRowsAtOnce * kThreads / kWarp];
    const int64 column = block();
    const int64 rank = blocks();
    const int64 first = static_cast<int64>(block_y()) * kRowsAtOnce;
    const int64 count = rows - first < kRowsAtOnce ? rows - first : kRowsAtOnce;
    const float* weights = a + column * width;
    float sums[kRowsAtOnce] = {};
    if (packed != 0) {
      for (int64 c = kPack * static_cast<int64>(thread()); c < width; c += kPack * kThreads) {
        float weight[kPack];
        load_pack<kPack>(weights + c, weight);
        MOELORA_UNROLL
        for (int r = 0; r < kRowsAtOnce; ++r) {
          if (r < count) {
            float values[kPack];
            load_pack<kPack>(x + (first + r) * width + c, values);
            MOELORA_UNROLL
            for (int i = 0; i < kPack; ++i) {
              sums[r] += values[i] * weight[i];
            }
          }
        }
      }
    } else {
      for (int64 c = thread(); c < width; c += kThreads) {
        MOELORA_UNROLL
        for (int r = 0; r < kRowsAtOnce; ++r) {
          if (r < count) {
            sums[r] += load(x + (first + r) * width + c) * weights[c];
          }
        }
      }
    }
    MOELORA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const float sum = warp_sum(sums[r]);
      if (lane() == 0) {
        shared[warp() * kRowsAtOnce + r] = sum;
      }
    }
    barrier();
    const int64 r = thread();
    if (r < count) {
      float sum = 0.0f;
      MOELORA_UNROLL
      for (uint32 w = 0; w < kThreads / kWarp; ++w) {
        sum += shared[w * kRowsAtOnce + r];
      }
      const float gate = omega == nullptr ? 1.0f : omega[omega_of_row[first + r] * omega_stride + column / share];
      v[(first + r) * rank + column] = sum * (gate * scaling);
    }
  }
};

/// y [rows, width] += v B^T: a thread for each column of y (x), kRowsAtOnce rows (y).
template <typename T>
struct FewRowsUp {
  static constexpr const char* kName = "FewRowsUp";
  static constexpr const char* kFile = "few_rows.cuh";
  static constexpr uint32 kThreads = 128;
  static constexpr bool kBarriers = true;
  static constexpr int64 kMostRank = 512;

  const float* v;  // [rows, rank]
  const float* b;  // [width, rank]
  T* y;
  int64 rows;
  int64 rank;
  int64 width;
  int64 packed;  // rank is a multiple of kPack, and B is aligned to it

  static constexpr int kPack = 4;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float factors[kRowsAtOnce * kMostRank];
    const int64 first = static_cast<int64>(block_y()) * kRowsAtOnce;
    const int64 count = rows - first < kRowsAtOnce ? rows - first : kRowsAtOnce;
    for (int64 i = thread(); i < kRowsAtOnce * rank; i += kThreads) {
      factors[i] = i < count * rank ? v[first * rank + i] : 0.0f;
    }
    barrier();
    const int64 column = static_cast<int64>(block()) * kThreads + thread();
    if (column >= width) {
      return;
    }
    const float* weights = b + column * rank;
    float sums[kRowsAtOnce] = {};
    if (packed != 0) {
      for (int64 j = 0; j < rank; j += kPack) {
        float weight[kPack];
        load_pack<kPack>(weights + j, weight);
        MOELORA_UNROLL
        for (int r = 0; r < kRowsAtOnce; ++r) {
          MOELORA_UNROLL
          for (int i = 0; i < kPack; ++i) {
            sums[r] += factors[r * rank + j + i] * weight[i];
          }
        }
      }
    } else {
      for (int64 j = 0; j < rank; ++j) {
        MOELORA_UNROLL
        for (int r = 0; r < kRowsAtOnce; ++r) {
          sums[r] += factors[r * rank + j] * weights[j];
        }
      }
    }
    MOELORA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (r < count) {
        T* place = y + (first + r) * width + column;
        store(place, load(place) + sums[r]);
      }
    }
  }
};

/// y [rows, columns]: a warp for each kColumns columns of y (x), kRowsAtOnce rows (y). Reads W and B once, x from the
/// card's caches.
template <typename T>
struct FewRowsProduct {
  static constexpr const char* kName = "FewRowsProduct";
  static constexpr const char* kFile = "few_rows.cuh";
  static constexpr uint32 kThreads = 128;
  static constexpr bool kBarriers = true;

  const T* x;       // [rows, width]
  const T* weight;  // [columns, width]
  const T* bias;    // [columns], or null
  const float* v;   // [rows, rank], or null
  const float* b;   // [columns, rank]
  T* y;
  int64 rows;
  int64 width;
  int64 columns;
  int64 rank;
  int64 packed;  // width is a multiple of kPack, and x and W are aligned to it

  static constexpr int kPack = 16 / sizeof(T);  // 16 bytes
  static constexpr int kColumns = 2;
  static constexpr int kSums = kColumns * kRowsAtOnce;

  MOELORA_DEVICE void operator()() const {
    const int64 column = (static_cast<int64>(block()) * (kThreads / kWarp) + warp()) * kColumns;
    const int64 first = static_cast<int64>(block_y()) * kRowsAtOnce;
    if (column >= columns) {
      return;  // the whole warp, and warps do not wait for each other
    }
    const int64 second = column + 1 < columns ? column + 1 : column;
    const int64 count = rows - first < kRowsAtOnce ? rows - first : kRowsAtOnce;
    float sums[kSums] = {};
    if (packed != 0) {
      add_products<kPack>(weight + column * width, weight + second * width, x + first * width, width, count, sums);
    } else {
      add_products<1>(weight + column * width, weight + second * width, x + first * width, width, count, sums);
    }
    if (v != nullptr) {
      add_products<1>(b + column * rank, b + second * rank, v + first * rank, rank, count, sums);
    }
    const float sum = sum_of_index(sums);
    const int64 index = (lane() >> 1) % kSums;
    const int64 at = column + index / kRowsAtOnce;
    const int64 row = index % kRowsAtOnce;
    if (lane() % 2 == 0 && row < count && at < columns) {
      store(y + (first + row) * columns + at, sum + (bias == nullptr ? 0.0f : load(bias + at)));
    }
  }

 private:
  // sums[c · kRowsAtOnce + r] += the lane's part of the product of weights of column c and row r.
  template <int n, typename X>
  MOELORA_DEVICE static void add_products(const X* w0, const X* w1, const X* rows, int64 width, int64 count,
                                          float* sums) {
    for (int64 i = n * static_cast<int64>(lane()); i < width; i += n * kWarp) {
      float weights[kColumns][n];
      load_pack<n>(w0 + i, weights[0]);
      load_pack<n>(w1 + i, weights[1]);
      MOELORA_UNROLL
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (r < count) {
          float values[n];
          load_pack<n>(rows + r * width + i, values);
          MOELORA_UNROLL
          for (int k = 0; k < n; ++k) {
            sums[r] += values[k] * weights[0][k];
            sums[kRowsAtOnce + r] += values[k] * weights[1][k];
          }
        }
      }
    }
  }

  // The sums of all lanes, each in two of them: index i in lanes 2 i and 2 i + 1. Lanes halve what they hold in every
  // exchange, so that 16 sums take 16 shuffles.
  MOELORA_DEVICE static float sum_of_index(float* sums) {
    static_assert(kSums == 16, "five exchanges");
    exchange<8, 16>(sums);
    exchange<4, 8>(sums);
    exchange<2, 4>(sums);
    exchange<1, 2>(sums);
    return sums[0] + shuffle_xor(sums[0], 1);
  }
  template <int half, int mask>
  MOELORA_DEVICE static void exchange(float* sums) {
    const bool upper = (lane() & mask) != 0;
    MOELORA_UNROLL
    for (int i = 0; i < half; ++i) {
      const float given = upper ? sums[i] : sums[i + half];
      const float kept = upper ? sums[i + half] : sums[i];
      sums[i] = kept + shuffle_xor(given, mask);
    }
  }
};

}  // namespace moelora::device
