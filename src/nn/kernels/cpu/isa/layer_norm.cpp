#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

void normalise_row(const float* x, float mean, float rstd, const float* weight, const float* bias, float* y,
                   std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = (x[c] - mean) * rstd * weight[c] + bias[c];
  }
}

}  // namespace

void enter_layer_norm(CpuKernels& table) { table.normalise_row = normalise_row; }

}  // namespace moelora::nn::kernels::MOELORA_ISA
