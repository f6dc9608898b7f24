#define MOELORA_KERNELS avx512
#include "nn/kernels/row_kernels.h"

#if defined(__AVX512F__)
#include "nn/kernels/row_kernels_body.h"

namespace moelora::nn::kernels {

const RowKernels* avx512_row_kernels() {
  static constexpr RowKernels kKernels{"avx512", 16, avx512::product, avx512::attend};
  return &kKernels;
}

}  // namespace moelora::nn::kernels
#else
namespace moelora::nn::kernels {
const RowKernels* avx512_row_kernels() { return nullptr; }
}  // namespace moelora::nn::kernels
#endif
