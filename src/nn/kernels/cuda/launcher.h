#pragma once
// How kernels of device code (code/*.cuh) are started. Operations call launch() with a kernel's struct and know nothing
// of what runs it: NVRTC and the driver on CUDA, the host (host_threads.h) for the device of the tests.
//
// Why NVRTC, and not nvcc: LibTorch brings it, so that neither building nor running needs a toolkit; one build serves
// every card from sm_70 on that its LibTorch serves; and no compiler of that list lacks a card that another has.

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstddef>
#include <memory>
#include <string>

#include "nn/kernels/cuda/code/elements.cuh"
#include "nn/kernels/cuda/host_threads.h"

namespace moelora::nn::kernels {

struct KernelInfo {
  std::string name;  ///< as in C++, without namespaces: "DropRows<Half>"
  const char* file;  ///< of code/
  std::uint32_t threads;
  bool barriers;
  std::size_t parameter_bytes;
  void (*on_host)(const void* parameters);  ///< one thread's work

  /// What NVRTC is asked for: the global function of this kernel.
  std::string expression() const;
};

class Launcher {
 public:
  virtual ~Launcher() = default;
  /// Starts a kernel on the device's current stream. `parameters`: the kernel's struct, read before it returns.
  virtual void launch(const KernelInfo& kernel, const at::Device& device, Grid grid, const void* parameters) = 0;
};

/// Null: this type of device has none, and operations are done by LibTorch's.
Launcher* launcher_for(at::DeviceType type);
void set_launcher(at::DeviceType type, std::unique_ptr<Launcher> launcher);

/// Whether x lies on a device with a launcher and has a type of element that kernels know. Never on a CPU, whose
/// kernels are others; there a launcher serves tests that call an operation of this folder themselves.
bool has_device_kernels(const at::Tensor& x);

template <typename T>
struct ElementName;
template <>
struct ElementName<float> {
  static constexpr const char* kName = "float";
};
template <>
struct ElementName<device::Half> {
  static constexpr const char* kName = "moelora::device::Half";
};
template <>
struct ElementName<device::BFloat16> {
  static constexpr const char* kName = "moelora::device::BFloat16";
};

/// A kernel's template arguments as text: none, an element's type, or that and numbers.
template <typename Kernel>
struct KernelArguments {
  static std::string text() { return ""; }
};
template <template <typename> class Kernel, typename T>
struct KernelArguments<Kernel<T>> {
  static std::string text() { return std::string("<") + ElementName<T>::kName + ">"; }
};
template <template <typename, int> class Kernel, typename T, int n>
struct KernelArguments<Kernel<T, n>> {
  static std::string text() { return std::string("<") + ElementName<T>::kName + ", " + std::to_string(n) + ">"; }
};

template <typename Kernel>
const KernelInfo& kernel_info() {
  static const KernelInfo info{Kernel::kName + KernelArguments<Kernel>::text(),
                               Kernel::kFile,
                               Kernel::kThreads,
                               Kernel::kBarriers,
                               sizeof(Kernel),
                               [](const void* parameters) { (*static_cast<const Kernel*>(parameters))(); }};
  return info;
}

/// An empty grid starts nothing. A launcher gets parameters with their padding bytes cleared, where the compiler can:
/// they are the same in every run, and the tests' launcher, which reads them word by word, takes no padding for an
/// address.
template <typename Kernel>
void launch(const at::Device& device, Kernel kernel, Grid grid) {
  if (grid.blocks > 0 && grid.blocks_y > 0) {
#ifdef __has_builtin
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&kernel);
#endif
#endif
    launcher_for(device.type())->launch(kernel_info<Kernel>(), device, grid, &kernel);
  }
}

/// use(T{}) with the element of `type`: float, device::Half or device::BFloat16.
template <typename Use>
void with_element(at::ScalarType type, const Use& use) {
  switch (type) {
    case at::kFloat:
      return use(float{});
    case at::kHalf:
      return use(device::Half{});
    case at::kBFloat16:
      return use(device::BFloat16{});
    default:
      TORCH_INTERNAL_ASSERT(false, "kernels know fp32, fp16 and bf16, found ", type);
  }
}

/// The tensor's data as device code names its elements; null if it is undefined.
template <typename T>
const T* elements(const at::Tensor& x) {
  return x.defined() ? static_cast<const T*>(x.const_data_ptr()) : nullptr;
}
template <typename T>
T* mutable_elements(const at::Tensor& x) {
  return x.defined() ? static_cast<T*>(x.mutable_data_ptr()) : nullptr;
}

/// How many blocks of `size` cover `count`.
inline std::uint32_t blocks_for(std::int64_t count, std::int64_t size) {
  return static_cast<std::uint32_t>((count + size - 1) / size);
}

}  // namespace moelora::nn::kernels
