#pragma once
// What weights are stored in: loading elements as fp32, and rounding them to nearest, ties to even, as LibTorch does.

#include <cstdint>

#include "nn/kernels/cpu/isa/registers.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

template <bool past_caches>
MOELORA_INLINE void write_register(void* to, Vector values) {
  if constexpr (past_caches) {
    stream(to, values);
  } else {
    __builtin_memcpy(to, &values, sizeof values);
  }
}

// What is stored. unpack: kWidth elements in their order. For work on each element by itself, 2 · kWidth of them at
// once: read_pair, round_pair (to the stored type), write_pair (side by side in memory again) and values_of what was
// rounded. Which elements are in which register is the format's matter.
struct Fp32 {
  using type = float;
  using Rounded = Pair;
  MOELORA_INLINE Vector unpack(const float* from) { return load_unaligned<Vector>(from); }
  MOELORA_INLINE Pair read_pair(const float* from) { return {unpack(from), unpack(from + kWidth)}; }
  MOELORA_INLINE Pair round_pair(const Pair& exact) { return exact; }
  MOELORA_INLINE Pair values_of(const Pair& rounded) { return rounded; }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(float* to, const Pair& rounded) {
    write_register<past_caches>(to, rounded.left);
    write_register<past_caches>(to + kWidth, rounded.right);
  }
};

struct Fp16 {
  using type = std::uint16_t;
  struct Rounded {
    Halves left, right;
  };
  MOELORA_INLINE Vector unpack(const std::uint16_t* from) { return from_fp16(load_unaligned<Halves>(from)); }
  MOELORA_INLINE Pair read_pair(const std::uint16_t* from) { return {unpack(from), unpack(from + kWidth)}; }
  MOELORA_INLINE Rounded round_pair(const Pair& exact) { return {to_fp16(exact.left), to_fp16(exact.right)}; }
  MOELORA_INLINE Pair values_of(const Rounded& rounded) { return {from_fp16(rounded.left), from_fp16(rounded.right)}; }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(std::uint16_t* to, const Rounded& rounded) {
    write_register<past_caches>(to, both(rounded.left, rounded.right));
  }
};

// Elements 0, 2, 4, … of a pair are in its left register and 1, 3, 5, … in its right one: each is the upper half of a
// 32-bit element, so that two instructions unpack them. Rounding adds half a unit of the upper half's last bit.
struct Bf16 {
  using type = std::uint16_t;
  using Rounded = IntVector;  ///< as in memory, on a little-endian machine
  static constexpr std::uint32_t kUpper = 0xffff0000u;
  static constexpr std::uint32_t kNan = 0x7fc00000u;

  MOELORA_INLINE Vector unpack(const std::uint16_t* from) { return from_bf16(load_unaligned<Halves>(from)); }
  MOELORA_INLINE Pair read_pair(const std::uint16_t* from) { return values_of(load_unaligned<IntVector>(from)); }
  MOELORA_INLINE Rounded round_pair(const Pair& exact) {
    IntVector left = rounded_bits(exact.left);
    IntVector right = rounded_bits(exact.right);
    if (__builtin_expect(has_nan(exact), 0)) {
      left = exact.left == exact.left ? left : IntVector{} + kNan;
      right = exact.right == exact.right ? right : IntVector{} + kNan;
    }
    return (left >> 16) | (right & kUpper);
  }
  MOELORA_INLINE Pair values_of(Rounded rounded) {
    return {same_bits<Vector>(rounded << 16), same_bits<Vector>(rounded & kUpper)};
  }
  template <bool past_caches>
  MOELORA_INLINE void write_pair(std::uint16_t* to, Rounded rounded) {
    write_register<past_caches>(to, same_bits<Vector>(rounded));
  }

 private:
  MOELORA_INLINE IntVector rounded_bits(Vector exact) {
    const auto bits = same_bits<IntVector>(exact);
    return bits + ((bits >> 16) & 1u) + 0x7fffu;
  }
};

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
