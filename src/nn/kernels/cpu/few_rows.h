#pragma once
// The product of a few rows with a weight that is read once: what decoding does all the time.

#include <cstdint>

#include "nn/kernels/cpu/stored.h"

namespace moelora::nn::kernels {

/// y = x W^T + v B^T + bias. Each element of y is one sum in an order that depends on nothing but d_in and rank: not on
/// the other rows, the range of outputs or the thread.
struct FewRows {
  const float* x;      ///< [rows, d_in]
  const void* weight;  ///< [d_out, d_in]
  Stored stored;       ///< of weight
  const float* v;      ///< [rows, rank]; unused for rank 0
  const float* b;      ///< [d_out, rank], rows stride_b apart
  const float* bias;   ///< [d_out] or null
  float* y;            ///< [rows, d_out]
  std::int64_t rows, d_in, d_out, rank, stride_b;
  const std::int64_t* columns;  ///< [rows]: a row's first column of b; null: 0 for every row
};

}  // namespace moelora::nn::kernels
