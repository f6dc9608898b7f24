#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/exponential.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

MOELORA_INLINE float logistic(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

void swiglu_row(const float* gate, const float* up, float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = gate[c] * logistic(gate[c]) * up[c];
  }
}

void swiglu_backward_row(const float* gate, const float* up, const float* dy, float* dgate, float* dup,
                         std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    const float g = gate[c];
    const float d = dy[c];
    const float s = logistic(g);
    dgate[c] = d * up[c] * s * (1.0f + g * (1.0f - s));
    dup[c] = d * g * s;
  }
}

}  // namespace

void enter_swiglu(CpuKernels& table) {
  table.swiglu_row = swiglu_row;
  table.swiglu_backward_row = swiglu_backward_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
