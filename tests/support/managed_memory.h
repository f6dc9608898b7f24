#pragma once
// With MOELORA_TEST_KERNELS=cuda tests of device code (support/host_launcher.h) run on the first GPU instead of the
// host: the CPU's tensors get memory that both reach (CUDA's managed memory), so that tests stay as they are.
// tests/gpu/run.sh does so, compute-sanitizer included.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <dlfcn.h>

#include <cstdlib>
#include <string_view>

#include "moelora/io/error.h"
#include "nn/kernels/cuda/driver.h"
#include "nn/kernels/cuda/launcher.h"
#include "nn/kernels/cuda/shared_library.h"

namespace moelora::testing {

inline bool kernels_on_cuda() {
  const char* where = std::getenv("MOELORA_TEST_KERNELS");
  return where != nullptr && std::string_view(where) == "cuda";
}

class ManagedMemory : public c10::Allocator {
 public:
  ManagedMemory() {
    const auto* driver = nn::cuda::driver();
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    MOELORA_CHECK(driver != nullptr && nn::cuda::find_function(library, "cuMemAllocManaged", allocate_) &&
                      nn::cuda::find_function(library, "cuMemFree_v2", free_) && driver->init(0) == 0 &&
                      driver->retain_context(&context_, 0) == 0,
                  "MOELORA_TEST_KERNELS=cuda needs a GPU and its driver");
    own() = this;
  }

  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = nullptr;
    if (bytes > 0) {
      constexpr unsigned kAnywhere = 1;  // CU_MEM_ATTACH_GLOBAL
      nn::cuda::Pointer place = 0;
      nn::cuda::Context popped = nullptr;
      nn::cuda::driver()->push_context(context_);
      const nn::cuda::Result result = allocate_(&place, bytes, kAnywhere);
      nn::cuda::driver()->pop_context(&popped);
      MOELORA_CHECK(result == 0, bytes,
                    " bytes of managed memory: ", nn::cuda::error_text(*nn::cuda::driver(), result));
      data = reinterpret_cast<void*>(place);
    }
    return {data, data, release, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static ManagedMemory*& own() {
    static ManagedMemory* memory = nullptr;
    return memory;
  }
  static void release(void* data) {
    if (data != nullptr) {
      nn::cuda::Context popped = nullptr;
      nn::cuda::driver()->push_context(own()->context_);
      own()->free_(reinterpret_cast<nn::cuda::Pointer>(data));
      nn::cuda::driver()->pop_context(&popped);
    }
  }

  nn::cuda::Context context_ = nullptr;
  nn::cuda::Result (*allocate_)(nn::cuda::Pointer* place, std::size_t bytes, unsigned flags) = nullptr;
  nn::cuda::Result (*free_)(nn::cuda::Pointer place) = nullptr;
};

/// Before the program's first tensor.
inline const bool managed_memory_is_used = [] {
  if (kernels_on_cuda()) {
    static auto* memory = new ManagedMemory;  // tensors of static storage outlive everything
    c10::SetCPUAllocator(memory, /*priority=*/1);
  }
  return kernels_on_cuda();
}();

/// Runs kernels for "CPU" tensors of managed memory on the first GPU, and waits for each.
class ManagedLauncher : public nn::kernels::Launcher {
 public:
  void launch(const nn::kernels::KernelInfo& kernel, const at::Device&, nn::kernels::Grid grid,
              const void* parameters) override {
    nn::kernels::Launcher* cuda = nn::kernels::launcher_for(at::kCUDA);
    MOELORA_CHECK(cuda != nullptr, "MOELORA_TEST_KERNELS=cuda needs a build with CUDA and a GPU");
    cuda->launch(kernel, at::Device(at::kCUDA, 0), grid, parameters);
    at::detail::getCUDAHooks().deviceSynchronize(0);
  }
};

}  // namespace moelora::testing
