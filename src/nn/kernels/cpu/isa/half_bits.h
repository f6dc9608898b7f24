#pragma once
// fp16 where the instruction set has no conversion of it.

#include <cstdint>

#include "nn/kernels/cpu/isa/same_bits.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

MOELORA_INLINE float fp16_value(std::uint16_t half) {
  // Exponent and mantissa move into fp32's places; 2^112 corrects the bias, subnormals included.
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fffu) << 13;
  const auto scaled = same_bits<std::uint32_t>(same_bits<float>(magnitude) * 0x1p112f);
  const std::uint32_t sign = (half & 0x8000u) << 16;
  return same_bits<float>((magnitude < (0x7c00u << 13) ? scaled : magnitude | 0x7f800000u) | sign);
}

// The addition to `base` rounds at fp16's last bit: its exponent is 13 above the value's, and no less than what fp16's
// subnormals ask for. The two products turn values beyond fp16's range into infinities.
MOELORA_INLINE std::uint16_t fp16_bits(float value) {
  const auto bits = same_bits<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) {
    return sign | 0x7e00u;
  }
  const std::uint32_t exponent = magnitude & 0x7f800000u;
  const std::uint32_t base = (exponent < 0x38800000u ? 0x38800000u : exponent) + 0x07800000u;
  const auto scaled = same_bits<float>(magnitude) * 0x1p112f * 0x1p-110f;
  const auto rounded = same_bits<std::uint32_t>(same_bits<float>(base) + scaled);
  return static_cast<std::uint16_t>(sign | (((rounded >> 13) & 0x7c00u) + (rounded & 0x0fffu)));
}

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
