#pragma once
// Device code run by the host (nn/kernels/cuda/host_threads.h) for tensors of some device; with
// MOELORA_TEST_KERNELS=cuda by the first GPU (support/managed_memory.h).

#include <memory>

#include "nn/kernels/cuda/launcher.h"
#include "support/managed_memory.h"

namespace moelora::testing {

class HostLauncher : public nn::kernels::Launcher {
 public:
  void launch(const nn::kernels::KernelInfo& kernel, const at::Device&, nn::kernels::Grid grid,
              const void* parameters) override {
    nn::kernels::run_on_host(kernel.on_host, parameters, grid, kernel.threads, kernel.barriers);
  }
};

/// While one of these lives, operations of nn/kernels/cuda take tensors of the CPU.
class HostKernels {
 public:
  HostKernels() {
    if (managed_memory_is_used) {
      nn::kernels::set_launcher(at::kCPU, std::make_unique<ManagedLauncher>());
    } else {
      nn::kernels::set_launcher(at::kCPU, std::make_unique<HostLauncher>());
    }
  }
  ~HostKernels() { nn::kernels::set_launcher(at::kCPU, nullptr); }
  HostKernels(const HostKernels&) = delete;
  HostKernels& operator=(const HostKernels&) = delete;
};

}  // namespace moelora::testing
