#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/exponential.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2/π): 0.5 (1 + tanh(z)) = 1 / (1 + exp(-2z))
constexpr float kGeluCube = 0.044715f;

MOELORA_INLINE float gelu_sigmoid(float x) {
  return 1.0f / (1.0f + fast_exp(-kGeluScale * (x + kGeluCube * x * x * x)));
}

// GELU'(x), with s = gelu_sigmoid(x).
MOELORA_INLINE float gelu_derivative(float x, float s) {
  return s + x * s * (1.0f - s) * kGeluScale * (1.0f + 3.0f * kGeluCube * x * x);
}

void gelu_row(const float* x, float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = x[c] * gelu_sigmoid(x[c]);
  }
}

void gelu_derivative_row(const float* x, float* y, float* derivative, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    const float s = gelu_sigmoid(x[c]);
    y[c] = x[c] * s;
    derivative[c] = gelu_derivative(x[c], s);
  }
}

void gelu_backward_row(const float* x, const float* dy, float* dx, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    dx[c] = dy[c] * gelu_derivative(x[c], gelu_sigmoid(x[c]));
  }
}

}  // namespace

void enter_gelu(CpuKernels& table) {
  table.gelu_row = gelu_row;
  table.gelu_derivative_row = gelu_derivative_row;
  table.gelu_backward_row = gelu_backward_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
