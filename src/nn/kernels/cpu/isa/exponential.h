#pragma once
// e^x for loops that the compiler vectorises.

#include <cstdint>

#include "nn/kernels/cpu/isa/same_bits.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

// exp(x) = 2^n · e^r with n = round(x log2(e)), |r| <= ln(2)/2, e^r by its Taylor polynomial of degree 7 (relative
// error below 2e-7). Arguments are clamped to the range in which the result is a normal number; below it the result is
// 0.
MOELORA_INLINE float fast_exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  constexpr float kShift = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const float shifted = clamped * 1.44269504f + kShift;
  const float n = shifted - kShift;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const std::int32_t exponent = (same_bits<std::int32_t>(shifted) - 0x4b400000) << 23;
  const float result = same_bits<float>(same_bits<std::int32_t>(p) + exponent);
  return x < -87.0f ? 0.0f : result;
}

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
