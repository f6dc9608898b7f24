#pragma once
// Attention of one query over the keys and values of a cache.

#include <cstdint>

#include "nn/kernels/cpu/stored.h"

namespace moelora::nn::kernels {

/// softmax(q K^T · scale) V for one query.
struct OneRowAttention {
  const float* q;      ///< [d]
  const void* keys;    ///< [count, d]
  const void* values;  ///< [count, d]
  Stored stored;       ///< of keys and values
  float* out;          ///< [d]
  float* scratch;      ///< room for count elements, rounded up to a multiple of 16
  std::int64_t count, d;
  float scale;
};

}  // namespace moelora::nn::kernels
