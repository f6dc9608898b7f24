#pragma once
// The bits of a value as another type.

#define MOELORA_INLINE static inline __attribute__((always_inline))

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

template <typename To, typename From>
MOELORA_INLINE To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace
}  // namespace moelora::nn::kernels::MOELORA_ISA
