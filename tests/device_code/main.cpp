// Compiles every kernel for every architecture that the library is meant for, and prints what it takes of each.
//   device_code LOG LIBNVRTC…   the first NVRTC that can be loaded; LOG: the compiler's words, in full
// Exit codes: 0 all compile and none spills; 1 one does not, or there was none; 77 no NVRTC.

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>

#include "device_code/resources.h"
#include "nn/kernels/cuda/all_kernels.h"
#include "nn/kernels/cuda/nvrtc.h"

namespace {

using moelora::nn::cuda::Nvrtc;
using moelora::nn::cuda::Target;
using moelora::nn::kernels::KernelInfo;

constexpr int kSkipped = 77;
constexpr int kArchitectures[] = {70, 80, 90};

/// Whether it compiles without spills.
bool check(const Nvrtc& nvrtc, const KernelInfo& kernel, const Target& target, std::ofstream& log) {
  const auto made = nvrtc.compile(kernel, target, true);
  log << "== " << kernel.name << " for " << target.name() << '\n' << made.log << '\n';
  const auto found = moelora::testing::resources_of(made.log);
  if (!found) {
    std::printf("%-48s %-6s the compiler did not say what it takes:\n%s\n", kernel.name.c_str(), target.name().c_str(),
                made.log.c_str());
    return false;
  }
  const bool spills = found->spill_stores > 0 || found->spill_loads > 0;
  std::printf("%-48s %-6s %7u %9d %6d %8d %6d %6d %s\n", kernel.name.c_str(), target.name().c_str(), kernel.threads,
              found->registers, found->stack_bytes, found->spill_stores + found->spill_loads, found->shared_bytes,
              static_cast<int>(made.image.size()), spills ? "SPILLS" : "");
  return !spills;
}

int run(const Nvrtc& nvrtc, std::ofstream& log) {
  int compiled = 0;
  int failed = 0;
  std::printf("%-48s %-6s %7s %9s %6s %8s %6s %6s\n", "kernel", "for", "threads", "registers", "stack", "spilled",
              "shared", "code");
  for (const KernelInfo& kernel : moelora::nn::kernels::all_kernels()) {
    for (const int architecture : kArchitectures) {
      const auto& known = nvrtc.architectures();
      if (std::find(known.begin(), known.end(), architecture) == known.end()) {
        continue;
      }
      try {
        check(nvrtc, kernel, {architecture, true}, log) ? ++compiled : ++failed;
      } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        ++failed;
      }
    }
  }
  for (const int architecture : kArchitectures) {
    const auto& known = nvrtc.architectures();
    if (std::find(known.begin(), known.end(), architecture) == known.end()) {
      std::printf("sm_%d was not compiled for: NVRTC %s does not know it\n", architecture, nvrtc.version().c_str());
    }
  }
  std::printf("NVRTC %s: %d compiled without spills, %d failed\n", nvrtc.version().c_str(), compiled, failed);
  return compiled > 0 && failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 2; i < argc; ++i) {
    if (const auto nvrtc = Nvrtc::open(argv[i])) {
      std::printf("NVRTC %s: %s\n", nvrtc->version().c_str(), argv[i]);
      std::ofstream log(argv[1]);
      return run(*nvrtc, log);
    }
  }
  std::printf("skipped: no NVRTC; bash -c '. cmake/setup.sh; moelora_nvrtc' fetches one into build/nvrtc\n");
  return kSkipped;
}
