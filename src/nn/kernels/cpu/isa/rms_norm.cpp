#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

void add_row(float* x, const float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    x[c] += y[c];
  }
}

float rms_row(const float* x, float epsilon, std::int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) {
    sum += x[c] * x[c];
  }
  return 1.0f / __builtin_sqrtf(sum / static_cast<float>(width) + epsilon);
}

void rms_normalise_row(const float* x, float rstd, const float* weight, float* y, std::int64_t width) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    y[c] = x[c] * rstd * weight[c];
  }
}

void rms_normalise_backward_row(const float* x, float rstd, const float* weight, const float* dresidual, float* dy,
                                std::int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) {
    sum += dy[c] * weight[c] * x[c];
  }
  const float share = sum / static_cast<float>(width) * rstd * rstd;
  if (dresidual == nullptr) {
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      dy[c] = rstd * (dy[c] * weight[c] - x[c] * share);
    }
    return;
  }
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    dy[c] = rstd * (dy[c] * weight[c] - x[c] * share) + dresidual[c];
  }
}

}  // namespace

void enter_rms_norm(CpuKernels& table) {
  table.add_row = add_row;
  table.rms_row = rms_row;
  table.rms_normalise_row = rms_normalise_row;
  table.rms_normalise_backward_row = rms_normalise_backward_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
