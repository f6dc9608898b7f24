#pragma once
// Which tensors the kernels read.

#include <c10/core/ScalarType.h>

#include "nn/kernels/cpu/stored.h"

namespace moelora::nn::kernels {

inline bool is_stored(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16;
}

inline Stored stored(at::ScalarType dtype) {
  TORCH_INTERNAL_ASSERT(is_stored(dtype));
  return dtype == at::kFloat ? Stored::fp32 : dtype == at::kHalf ? Stored::fp16 : Stored::bf16;
}

}  // namespace moelora::nn::kernels
