#define MOELORA_KERNELS plain
#include "nn/kernels/row_kernels.h"
#include "nn/kernels/row_kernels_body.h"

namespace moelora::nn::kernels {

const RowKernels* plain_row_kernels() {
  static constexpr RowKernels kKernels{"plain", 2, plain::product, plain::attend};
  return &kKernels;
}

}  // namespace moelora::nn::kernels
