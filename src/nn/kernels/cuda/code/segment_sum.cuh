#pragma once
// The gradient of expert weights: for each segment and expert the sum of scaling · dv ⊙ u over the segment's rows and
// the expert's entries. One block for each of them, which looks for its rows itself: they may lie in any order
// (selected rows), and nothing is added by two blocks.

#include "low_rank_gradients.cuh"

namespace moelora::device {

struct AddExpertWeightGradient {
  static constexpr const char* kName = "AddExpertWeightGradient";
  static constexpr const char* kFile = "segment_sum.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  Inner u;
  Inner dv;              // gradient of w ⊙ u
  EntryWeights weights;  // `omega` is not read
  int64 rows;
  float* gradient;  // [segments, experts], added to

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kWarp];
    const int64 segment = block();
    const int32 expert = static_cast<int32>(block_y());
    float sum = 0.0f;
    for (int64 row = thread(); row < rows; row += kThreads) {
      if (weights.segment_of_row[row] == segment) {
        for (int32 k = expert * weights.share; k < (expert + 1) * weights.share; ++k) {
          sum += dv.at(row, k) * u.at(row, k);
        }
      }
    }
    sum = block_sum<kThreads>(sum, shared);
    if (thread() == 0) {
      gradient[segment * weights.experts + expert] += weights.scaling * sum;
    }
  }
};

/// The same where each row has weights of its own (token routing): a thread for each row and expert.
struct AddRowWeightGradient {
  static constexpr const char* kName = "AddRowWeightGradient";
  static constexpr const char* kFile = "segment_sum.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = false;

  Inner u;
  Inner dv;
  EntryWeights weights;
  int64 rows;
  float* gradient;  // [rows, experts], added to

  MOELORA_DEVICE void operator()() const {
    const int64 i = static_cast<int64>(block()) * kThreads + thread();
    if (i >= rows * weights.experts) {
      return;
    }
    const int64 row = i / weights.experts;
    const int32 expert = static_cast<int32>(i % weights.experts);
    float sum = 0.0f;
    for (int32 k = expert * weights.share; k < (expert + 1) * weights.share; ++k) {
      sum += dv.at(row, k) * u.at(row, k);
    }
    gradient[i] += weights.scaling * sum;
  }
};

}  // namespace moelora::device
