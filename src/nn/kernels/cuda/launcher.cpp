#include "nn/kernels/cuda/launcher.h"

#include <array>

#include "nn/kernels/cuda/nvrtc_launcher.h"

namespace moelora::nn::kernels {
namespace {

std::unique_ptr<Launcher>& place_of(at::DeviceType type) {
  static std::array<std::unique_ptr<Launcher>, at::COMPILE_TIME_MAX_DEVICE_TYPES> launchers;
  return launchers[static_cast<std::size_t>(type)];
}

}  // namespace

std::string KernelInfo::expression() const { return "moelora::device::run<moelora::device::" + name + ">"; }

Launcher* launcher_for(at::DeviceType type) {
  if (type == at::kCUDA) {  // made when first asked for: what is never called in a static library is not linked
    static const bool made = (set_launcher(type, cuda::make_cuda_launcher()), true);
    static_cast<void>(made);
  }
  return place_of(type).get();
}

void set_launcher(at::DeviceType type, std::unique_ptr<Launcher> launcher) { place_of(type) = std::move(launcher); }

bool has_device_kernels(const at::Tensor& x) {
  const auto type = x.scalar_type();
  return !x.is_cpu() && launcher_for(x.device().type()) != nullptr &&
         (type == at::kFloat || type == at::kHalf || type == at::kBFloat16);
}

}  // namespace moelora::nn::kernels
