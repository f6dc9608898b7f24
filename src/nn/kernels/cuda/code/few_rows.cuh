#pragma once
// The low-rank part of an adapted linear for the few rows of a decoding step, beside the frozen product:
// y += v B^T with v = s · g ⊙ (x A^T). A and B stay in fp32, and each is read once for kRowsAtOnce rows.

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

}  // namespace moelora::device
