#pragma once
// Whether kernels may read a tensor by packs of neighbours (load_pack in code/elements.cuh).

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace moelora::nn::kernels {

/// All axes but the last begin at multiples of n elements, the last one is dense, and the data is aligned to n of them.
template <int n>
bool is_packed(const at::Tensor& x) {
  const auto axes = x.dim();
  bool packed = x.stride(axes - 1) == 1 && x.size(axes - 1) % n == 0 &&
                reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % (n * x.element_size()) == 0;
  for (std::int64_t axis = 0; axis + 1 < axes; ++axis) {
    packed = packed && (x.size(axis) == 1 || x.stride(axis) % n == 0);
  }
  return packed;
}

}  // namespace moelora::nn::kernels
