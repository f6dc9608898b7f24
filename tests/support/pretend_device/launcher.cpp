// Our kernels on the pretend device: the host runs them, each counts as one operator.

#include "nn/kernels/cuda/launcher.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "support/pretend_device/launcher.h"
#include "support/pretend_device/memory.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::testing::pretend {
namespace {

/// Whether this process can read there; a word of two numbers is seldom such an address.
bool is_mapped(std::uintptr_t word) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(word / page * page), page, &resident) == 0;
}

/// A word of a kernel's parameters that looks like an address of this process must be one that a card could follow.
/// (Where programs and libraries are mapped, from 0x55…; counts never are that large.)
void check_addresses(const nn::kernels::KernelInfo& kernel, const void* parameters) {
  for (std::size_t at = 0; at + sizeof(std::uintptr_t) <= kernel.parameter_bytes; at += sizeof(std::uintptr_t)) {
    std::uintptr_t word = 0;
    std::memcpy(&word, static_cast<const char*>(parameters) + at, sizeof word);
    const auto* place = reinterpret_cast<const void*>(word);
    TORCH_CHECK(word < 0x550000000000 || word >= 0x800000000000 || is_device_memory(place) || is_pinned_memory(place) ||
                    !is_mapped(word),
                "pretend device: kernel ", kernel.name, " got an address of the host, at byte ", at,
                " of its parameters");
  }
}

class Launcher final : public nn::kernels::Launcher {
 public:
  void launch(const nn::kernels::KernelInfo& kernel, const at::Device&, nn::kernels::Grid grid,
              const void* parameters) override {
    check_addresses(kernel, parameters);
    const Launch launch(kernel.name);
    nn::kernels::run_on_host(kernel.on_host, parameters, grid, kernel.threads, kernel.barriers);
  }
};

}  // namespace

void install_launcher() { nn::kernels::set_launcher(at::kPrivateUse1, std::make_unique<Launcher>()); }

WithoutKernels::WithoutKernels() { nn::kernels::set_launcher(at::kPrivateUse1, nullptr); }

}  // namespace moelora::testing::pretend
