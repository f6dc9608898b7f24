#pragma once
// The NVRTC that this machine has, for tests.

#include <memory>

#include "nn/kernels/cuda/nvrtc.h"

namespace moelora::testing {

/// That of build/nvrtc (cmake/setup.sh), of LibTorch, of a toolkit; null if there is none.
inline std::unique_ptr<nn::cuda::Nvrtc> open_nvrtc() {
  for (const char* library : {MOELORA_SOURCE_DIR "/build/nvrtc/nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "libnvrtc.so.13",
                              "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so"}) {
    if (auto nvrtc = nn::cuda::Nvrtc::open(library)) {
      return nvrtc;
    }
  }
  return nullptr;
}

}  // namespace moelora::testing
