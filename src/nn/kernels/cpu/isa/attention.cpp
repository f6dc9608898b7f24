#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/exponential.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

float softmax_row(float* s, std::int64_t seen, std::int64_t width) {
  float largest = s[0];
#pragma omp simd reduction(max : largest)
  for (std::int64_t c = 0; c < seen; ++c) {
    largest = s[c] > largest ? s[c] : largest;
  }
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] = fast_exp(s[c] - largest);
    sum += s[c];
  }
  const float factor = 1.0f / sum;
#pragma omp simd
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] *= factor;
  }
  for (std::int64_t c = seen; c < width; ++c) {
    s[c] = 0.0f;
  }
  return largest + __builtin_logf(sum);
}

void probability_row(float* s, std::int64_t seen, std::int64_t width, float log_sum) {
#pragma omp simd
  for (std::int64_t c = 0; c < seen; ++c) {
    s[c] = fast_exp(s[c] - log_sum);
  }
  for (std::int64_t c = seen; c < width; ++c) {
    s[c] = 0.0f;
  }
}

void softmax_backward_row(const float* p, float* dp, std::int64_t width, float dot) {
#pragma omp simd
  for (std::int64_t c = 0; c < width; ++c) {
    dp[c] = p[c] * (dp[c] - dot);
  }
}

float dot_row(const float* a, const float* b, std::int64_t width) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < width; ++c) {
    sum += a[c] * b[c];
  }
  return sum;
}

}  // namespace

void enter_attention(CpuKernels& table) {
  table.softmax_row = softmax_row;
  table.probability_row = probability_row;
  table.softmax_backward_row = softmax_backward_row;
  table.dot_row = dot_row;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
