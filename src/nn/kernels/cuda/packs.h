#pragma once
// Kernels that are written for N neighbouring elements a thread: 4 where shapes and addresses allow, else 1.

#include <initializer_list>
#include <type_traits>
#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

using device::kPack;

/// Whether every length is a multiple of a pack and every tensor (undefined ones aside) begins at one.
inline bool in_packs(std::initializer_list<std::int64_t> lengths, std::initializer_list<const at::Tensor*> tensors) {
  for (const std::int64_t length : lengths) {
    if (length % kPack != 0) {
      return false;
    }
  }
  for (const at::Tensor* x : tensors) {
    if (x->defined() && reinterpret_cast<std::uintptr_t>(x->const_data_ptr()) % (kPack * x->element_size()) != 0) {
      return false;
    }
  }
  return true;
}

/// use(T{}, N{}) with the element of `type` and the integral constant N of neighbours.
template <typename Use>
void with_packs(at::ScalarType type, bool packs, const Use& use) {
  with_element(type, [&]<typename T>(T element) {
    if (packs) {
      use(element, std::integral_constant<int, kPack>{});
    } else {
      use(element, std::integral_constant<int, 1>{});
    }
  });
}

/// All forms of kernels of elements and packs.
template <template <typename, int> class... Kernels>
std::vector<KernelInfo> packed_kernels() {
  std::vector<KernelInfo> all;
  const auto add = [&]<template <typename, int> class Kernel>() {
    all.insert(all.end(), {kernel_info<Kernel<float, 1>>(), kernel_info<Kernel<float, kPack>>(),
                           kernel_info<Kernel<device::Half, 1>>(), kernel_info<Kernel<device::Half, kPack>>(),
                           kernel_info<Kernel<device::BFloat16, 1>>(), kernel_info<Kernel<device::BFloat16, kPack>>()});
  };
  (add.template operator()<Kernels>(), ...);
  return all;
}

}  // namespace moelora::nn::kernels
