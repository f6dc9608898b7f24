#pragma once
// Losses of rows of logits and their gradient in the logits' own place: no probabilities beside them.

#include "elements.cuh"

namespace moelora::device {

/// One row of logits [rows, width] for each block. loss = log(sum exp x) - x[label] in fp32; with `scale` above 0 the
/// logits become scale · (softmax - onehot), where a power of two keeps small probabilities above fp16's smallest
/// number. Reads the row twice and writes it once; N neighbours for each thread.
template <typename T, int N>
struct CrossEntropy {
  static constexpr const char* kName = "CrossEntropy";
  static constexpr const char* kFile = "cross_entropy.cuh";
  static constexpr uint32 kThreads = 512;
  static constexpr bool kBarriers = true;

  T* logits;
  const int64* labels;  // [rows]
  float* losses;        // [rows]
  float scale;
  int32 width;

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float largest_of_warp[kWarp];
    MOELORA_SHARED float sum_of_warp[kWarp];
    T* row = logits + static_cast<int64>(block()) * width;
    const int64 label = labels[block()];
    const float at_label = load(row + label);
    // Each thread's sum is relative to the largest that it has met.
    float largest = -float_of(0x7f800000u);
    float sum = 0.0f;
    for (int64 c = N * static_cast<int64>(thread()); c < width; c += N * kThreads) {
      float x[N];
      load_pack<N>(row + c, x);
      float most = x[0];
      MOELORA_UNROLL
      for (int n = 1; n < N; ++n) {
        most = x[n] > most ? x[n] : most;
      }
      if (most > largest) {
        sum *= exponential(largest - most);
        largest = most;
      }
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        sum += exponential(x[n] - largest);
      }
    }
    const float of_warp = warp_max(largest);
    if (lane() == 0) {
      largest_of_warp[warp()] = of_warp;
    }
    barrier();
    float of_row = largest_of_warp[0];
    MOELORA_UNROLL
    for (uint32 i = 1; i < kThreads / kWarp; ++i) {
      of_row = largest_of_warp[i] > of_row ? largest_of_warp[i] : of_row;
    }
    // A thread without elements has the sum 0 and adds nothing.
    const float total = block_sum<kThreads>(sum == 0.0f ? 0.0f : sum * exponential(largest - of_row), sum_of_warp);
    if (thread() == 0) {
      losses[block()] = of_row + logarithm(total) - at_label;
    }
    if (scale <= 0.0f) {
      return;
    }
    const float factor = scale / total;
    for (int64 c = N * static_cast<int64>(thread()); c < width; c += N * kThreads) {
      float x[N];
      load_pack<N>(row + c, x);
      MOELORA_UNROLL
      for (int n = 0; n < N; ++n) {
        x[n] = exponential(x[n] - of_row) * factor - (c + n == label ? scale : 0.0f);
      }
      store_pack<N>(row + c, x);
    }
  }
};

}  // namespace moelora::device
