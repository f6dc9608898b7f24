#include "moelora/nn/device.h"

#include <unistd.h>

#include <algorithm>

#include "moelora/io/error.h"
#include "moelora/io/memory.h"
#include "nn/kernels/cuda/driver.h"
#include "nn/kernels/cuda/setup.h"

namespace moelora::nn {
namespace {

int index_of(at::Device device) { return std::max<int>(device.index(), 0); }

DeviceInfo machine(std::string name) {
  DeviceInfo info;
  info.name = std::move(name);
  info.total_bytes =
      static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  info.free_bytes = static_cast<std::uint64_t>(io::available_memory().value_or(0.0));
  return info;
}

// The primary context is the one that LibTorch uses: opened here, it stays open.
void ask_memory(const cuda::Driver& driver, int index, DeviceInfo& info) {
  cuda::DeviceNumber device = 0;
  cuda::Context context = nullptr;
  std::size_t free = 0;
  std::size_t total = 0;
  cuda::Result error = driver.device(&device, index);
  error = error != 0 ? error : driver.retain_context(&context, device);
  error = error != 0 ? error : driver.push_context(context);
  if (error == 0) {
    error = driver.memory(&free, &total);
    driver.pop_context(&context);
  }
  MOELORA_CHECK(error == 0, "cuda:", index, " (", info.name, ") can't be opened: ", cuda::error_text(driver, error));
  info.free_bytes = free;
  info.total_bytes = total;
}

}  // namespace

std::string device_problem(at::Device device) {
  return device.is_cuda() ? cuda::problem(cuda::setup(), index_of(device)) : std::string();
}

DeviceInfo device_info(at::Device device) {
  if (!device.is_cuda()) {
    return machine(device.is_cpu() ? "CPU" : device.str());
  }
  const std::string problem = device_problem(device);
  MOELORA_CHECK(problem.empty(), device.str(), ": ", problem);
  const int index = index_of(device);
  const cuda::Card& card = cuda::setup().cards[static_cast<std::size_t>(index)];
  DeviceInfo info;
  info.name = card.name;
  info.major = card.major;
  info.minor = card.minor;
  info.multiprocessors = card.multiprocessors;
  ask_memory(*cuda::driver(), index, info);
  return info;
}

int cuda_device_count() { return static_cast<int>(cuda::setup().cards.size()); }

}  // namespace moelora::nn
