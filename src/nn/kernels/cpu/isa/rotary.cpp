#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/operations.h"
#include "nn/kernels/cpu/isa/same_bits.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

// `count` pairs.
MOELORA_INLINE void turn_pairs(float* first, float* second, const float* c, const float* s, std::int64_t count,
                               float sign) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float a = first[i];
    const float b = second[i];
    first[i] = a * c[i] - b * s[i] * sign;
    second[i] = b * c[i] + a * s[i] * sign;
  }
}

void rotate_halves_row(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse) {
  turn_pairs(x, x + width / 2, cos, sin, width / 2, inverse ? -1.0f : 1.0f);
}

void rotate_row(float* x, const float* cos, const float* sin, std::int64_t width, bool inverse) {
  const std::int64_t half = width / 2;
  for (std::int64_t axis = 0; axis < 2; ++axis) {
    rotate_halves_row(x + axis * half, cos + axis * half, sin + axis * half, half, inverse);
  }
}

}  // namespace

void enter_rotary(CpuKernels& table) {
  table.rotate_row = rotate_row;
  table.rotate_halves_row = rotate_halves_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
