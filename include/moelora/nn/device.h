#pragma once
// What computes: the machine's processor or a GPU, whether this program can use it, and what it has.

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

namespace moelora::nn {

struct DeviceInfo {
  std::string name;               ///< as its maker calls it ("Tesla V100-SXM2-32GB"); "CPU" for the processor
  std::uint64_t total_bytes = 0;  ///< memory of the device, of the machine for the processor; 0: unknown
  std::uint64_t free_bytes = 0;   ///< of these, what no program uses now; 0: unknown
  int major = 0;                  ///< compute capability of a GPU (V100: 7.0); 0 elsewhere
  int minor = 0;
  int multiprocessors = 0;  ///< of a GPU; 0 elsewhere

  /// Products in bfloat16 have hardware (compute capability 8.0 and later).
  bool has_bfloat16() const { return major >= 8; }
  /// LibTorch's flash attention runs on it (compute capability 8.0 and later).
  bool has_flash_attention() const { return major >= 8; }
};

/// Why this program can't compute on `device`, and what to do: no CUDA in the build, no driver, no such GPU, a GPU
/// whose architecture LibTorch holds no code for. Empty if it can.
std::string device_problem(at::Device device);

/// Asks the device itself (for CUDA without an index: the first one); on CUDA this opens the device for the process,
/// so that `free_bytes` no longer holds what that takes. Error with device_problem's text if it can't be used.
DeviceInfo device_info(at::Device device);

/// GPUs that CUDA shows to this process, whether or not this program can use them.
int cuda_device_count();

}  // namespace moelora::nn
