#define MOELORA_KERNELS avx2
#include "nn/kernels/row_kernels.h"

#if defined(__AVX2__)
#include "nn/kernels/row_kernels_body.h"

namespace moelora::nn::kernels {

const RowKernels* avx2_row_kernels() {
  static constexpr RowKernels kKernels{"avx2", 8, avx2::product, avx2::attend};
  return &kKernels;
}

}  // namespace moelora::nn::kernels
#else
namespace moelora::nn::kernels {
const RowKernels* avx2_row_kernels() { return nullptr; }
}  // namespace moelora::nn::kernels
#endif
