#pragma once
// Kernels on NVIDIA's cards: compiled by NVRTC for the card when they are first started, kept in memory for the process
// and on disk for the next one, started on LibTorch's current stream.

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "nn/kernels/cuda/cubin_cache.h"
#include "nn/kernels/cuda/driver.h"
#include "nn/kernels/cuda/launcher.h"
#include "nn/kernels/cuda/nvrtc.h"

namespace moelora::nn::cuda {

class NvrtcLauncher : public kernels::Launcher {
 public:
  using StreamOf = std::function<Stream(const at::Device&)>;

  NvrtcLauncher(const Driver& driver, std::unique_ptr<Nvrtc> nvrtc, CubinCache cache, StreamOf stream)
      : driver_(driver), nvrtc_(std::move(nvrtc)), cache_(std::move(cache)), stream_(std::move(stream)) {}

  /// Error with the kernel's name if it can't be compiled, loaded or started.
  void launch(const kernels::KernelInfo& kernel, const at::Device& device, kernels::Grid grid,
              const void* parameters) override;

 private:
  struct OfDevice {
    Context context = nullptr;  // the one of LibTorch
    Target target;
    std::unordered_map<std::string, Function> functions;  // by the kernel's name
  };
  OfDevice& opened(int index);
  Function load(const kernels::KernelInfo& kernel, OfDevice& device) const;
  CompiledKernel compiled(const kernels::KernelInfo& kernel, const Target& target) const;

  const Driver& driver_;
  std::unique_ptr<Nvrtc> nvrtc_;
  CubinCache cache_;
  StreamOf stream_;
  std::mutex mutex_;  // of devices_ and what they hold
  std::unordered_map<int, OfDevice> devices_;
};

/// For this machine's cards; null in a build without CUDA, without a driver and where LibTorch's NVRTC can't be opened
/// (which is logged: operations are LibTorch's then).
std::unique_ptr<kernels::Launcher> make_cuda_launcher();

}  // namespace moelora::nn::cuda
