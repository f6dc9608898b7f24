#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

void rotate_row(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse) {
  const std::int64_t quarter = width / 4;
  const float sign = inverse ? -1.0f : 1.0f;
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    float* first = x + axis * 2 * quarter;
    float* second = first + quarter;
    const float* c = cos + axis * 2 * quarter;
    const float* s = sin + axis * 2 * quarter;
#pragma omp simd
    for (std::int64_t i = 0; i < quarter; ++i) {
      const float a = first[i];
      const float b = second[i];
      first[i] = a * c[i] - b * s[i] * sign;
      second[i] = b * c[i] + a * s[i] * sign;
    }
  }
}

}  // namespace

void enter_rotary(CpuKernels& table) { table.rotate_row = rotate_row; }

}  // namespace moelora::nn::kernels::MOELORA_ISA
