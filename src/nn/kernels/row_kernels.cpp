#include "nn/kernels/row_kernels.h"

#include <ATen/Version.h>

#include <string>

namespace moelora::nn::kernels {

const RowKernels& row_kernels() {
  static const RowKernels& best = []() -> const RowKernels& {
    const std::string capability = at::get_cpu_capability();
    const bool widest = capability.starts_with("AVX512");
    if (widest && avx512_row_kernels() != nullptr) {
      return *avx512_row_kernels();
    }
    if ((widest || capability == "AVX2") && avx2_row_kernels() != nullptr) {
      return *avx2_row_kernels();
    }
    return *plain_row_kernels();
  }();
  return best;
}

}  // namespace moelora::nn::kernels
