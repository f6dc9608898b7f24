#pragma once
// NVRTC, NVIDIA's compiler as a library: compiles kernels of code/ for a card. Opened when first needed, with
// prototypes written out (nvrtc.h), so that neither building nor starting a program asks for it; compiling needs no
// card.

#include <memory>
#include <string>
#include <vector>

#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::cuda {

/// What code is made for: machine code (sm_70), or intermediate code (compute_90) that the driver translates, for cards
/// that come after this NVRTC.
struct Target {
  int architecture = 0;
  bool machine_code = true;
  std::string name() const { return (machine_code ? "sm_" : "compute_") + std::to_string(architecture); }
};

struct CompiledKernel {
  std::string symbol;  // of the global function
  std::string image;   // what the driver loads
  std::string log;     // the compiler's: warnings, and with `verbose` registers, spills and memory
};

class Nvrtc {
 public:
  /// Null if no such library can be loaded, or it lacks a function.
  static std::unique_ptr<Nvrtc> open(const std::string& library);
  virtual ~Nvrtc() = default;

  virtual std::string version() const = 0;                    ///< "12.8"
  virtual const std::vector<int>& architectures() const = 0;  ///< that it makes code for, ascending: 50, …, 70, …
  /// Error with the kernel's name and the compiler's log if it does not compile.
  virtual CompiledKernel compile(const kernels::KernelInfo& kernel, const Target& target, bool verbose) const = 0;
};

/// For a card of that compute capability (70 is 7.0): the newest code that it runs; architecture 0 if there is none.
Target target_for(int capability, const std::vector<int>& architectures);

}  // namespace moelora::nn::cuda
