#pragma once
// What an optimizer's step must know of all its gradients: their norm, whether all are finite, and what they are to be
// divided by (loss scale and clipping), which the step itself does. The reference: AdamW::collect_on_device.

#include "elements.cuh"

namespace moelora::device {

/// Σ x² of each chunk of some tensors; a block for each chunk. Reads every gradient once.
struct SquareSums {
  static constexpr const char* kName = "SquareSums";
  static constexpr const char* kFile = "unscale.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;
  static constexpr int kTensors = 96;     // pointers, sizes and places stay within the 4 KiB of a launch's parameters
  static constexpr int64 kChunk = 16384;  // elements
  static constexpr int kPack = 4;

  const float* tensors[kTensors];
  int64 sizes[kTensors];
  int32 first_block[kTensors + 1];  // of each tensor; then the number of blocks
  int32 count;                      // of tensors
  float* sums;                      // [blocks]

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kWarp];
    int32 tensor = 0;
    for (int32 above = count; above - tensor > 1;) {
      const int32 middle = (tensor + above) / 2;
      if (first_block[middle] <= static_cast<int32>(block())) {
        tensor = middle;
      } else {
        above = middle;
      }
    }
    const int64 begin = (static_cast<int64>(block()) - first_block[tensor]) * kChunk;
    const int64 left = sizes[tensor] - begin;
    const int64 size = left < kChunk ? left : kChunk;
    const float* x = tensors[tensor] + begin;
    const bool packed = reinterpret_cast<uint64>(x) % (kPack * sizeof(float)) == 0;
    const int64 in_packs = packed ? size / kPack * kPack : 0;
    float sum = 0.0f;
    for (int64 i = kPack * static_cast<int64>(thread()); i < in_packs; i += kPack * kThreads) {
      float values[kPack];
      load_pack<kPack>(x + i, values);
      MOELORA_UNROLL
      for (int k = 0; k < kPack; ++k) {
        sum += values[k] * values[k];
      }
    }
    for (int64 i = in_packs + thread(); i < size; i += kThreads) {
      sum += x[i] * x[i];
    }
    sum = block_sum<kThreads>(sum, shared);
    if (thread() == 0) {
      sums[block()] = sum;
    }
  }
};

/// One block: the sums of all chunks in a fixed order, and what follows from them.
struct DecideStep {
  static constexpr const char* kName = "DecideStep";
  static constexpr const char* kFile = "unscale.cuh";
  static constexpr uint32 kThreads = 256;
  static constexpr bool kBarriers = true;

  const float* sums;
  int64 count;
  const float* loss_scale;  // null: 1
  float max_norm;           // 0: no limit
  float* decision;          // [3]: norm before clipping, 1 if it is not finite, what to divide the gradients by

  MOELORA_DEVICE void operator()() const {
    MOELORA_SHARED float shared[kWarp];
    float sum = 0.0f;
    for (int64 i = thread(); i < count; i += kThreads) {
      sum += sums[i];
    }
    sum = block_sum<kThreads>(sum, shared);
    if (thread() == 0) {
      const float scale = loss_scale != nullptr ? *loss_scale : 1.0f;
      const float norm = square_root(sum) / scale;
      const float excess = max_norm > 0.0f ? (norm + 1e-6f) / max_norm : 0.0f;
      decision[0] = norm;
      decision[1] = (bits_of(norm) & 0x7f800000u) == 0x7f800000u ? 1.0f : 0.0f;
      decision[2] = excess > 1.0f ? scale * excess : scale;
    }
  }
};

}  // namespace moelora::device
