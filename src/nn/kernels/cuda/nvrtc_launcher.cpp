#include "nn/kernels/cuda/nvrtc_launcher.h"

#ifdef MOELORA_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "nn/kernels/cuda/setup.h"

namespace moelora::nn::cuda {
namespace {

constexpr std::uint32_t kLargestGridY = 65535;

void check(const Driver& driver, Result result, const std::string& what) {
  MOELORA_CHECK(result == 0, what, ": ", error_text(driver, result));
}

/// While it lives, the context is the thread's current one.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, Context context) : driver_(driver) {
    check(driver, driver.push_context(context), "a GPU's context can't be used");
  }
  ~CurrentContext() {
    Context context = nullptr;
    driver_.pop_context(&context);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
};

}  // namespace

NvrtcLauncher::OfDevice& NvrtcLauncher::opened(int index) {
  OfDevice& device = devices_[index];
  if (device.context == nullptr) {
    DeviceNumber number = 0;
    int major = 0;
    int minor = 0;
    const std::string what = detail::concat("cuda:", index, " can't be opened");
    check(driver_, driver_.device(&number, index), what);
    check(driver_, driver_.device_attribute(&major, kComputeCapabilityMajor, number), what);
    check(driver_, driver_.device_attribute(&minor, kComputeCapabilityMinor, number), what);
    device.target = target_for(10 * major + minor, nvrtc_->architectures());
    MOELORA_CHECK(device.target.architecture > 0, "NVRTC ", nvrtc_->version(), " makes no code for cuda:", index,
                  ", which has compute capability ", major, ".", minor, " (README, Cards)");
    Context context = nullptr;
    check(driver_, driver_.retain_context(&context, number), what);
    device.context = context;
  }
  return device;
}

CompiledKernel NvrtcLauncher::compiled(const kernels::KernelInfo& kernel, const Target& target) const {
  const std::string key = CubinCache::key_of(kernel, target, nvrtc_->version());
  if (auto kept = cache_.find(key)) {
    return std::move(*kept);
  }
  static const bool said =
      (log::info("compiling kernels for " + target.name() + ", each when it is first used (kept for the next run)"),
       true);
  static_cast<void>(said);
  CompiledKernel made = nvrtc_->compile(kernel, target, false);
  cache_.keep(key, made);
  return made;
}

Function NvrtcLauncher::load(const kernels::KernelInfo& kernel, OfDevice& device) const {
  const CompiledKernel made = compiled(kernel, device.target);
  Module module = nullptr;
  Function function = nullptr;
  const std::string what = detail::concat("the kernel ", kernel.name, " can't be loaded for ", device.target.name());
  check(driver_, driver_.load_module(&module, made.image.data()), what);
  check(driver_, driver_.find_in_module(&function, module, made.symbol.c_str()), what);
  return function;
}

void NvrtcLauncher::launch(const kernels::KernelInfo& kernel, const at::Device& device, kernels::Grid grid,
                           const void* parameters) {
  TORCH_INTERNAL_ASSERT(device.has_index());
  TORCH_INTERNAL_ASSERT(grid.blocks_y <= kLargestGridY, kernel.name, ": ", grid.blocks_y, " blocks in y");
  Context context = nullptr;
  Function function = nullptr;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    OfDevice& of_device = opened(device.index());
    context = of_device.context;
    const auto known = of_device.functions.find(kernel.name);
    if (known != of_device.functions.end()) {
      function = known->second;
    } else {
      const CurrentContext current(driver_, context);
      function = load(kernel, of_device);
      of_device.functions.emplace(kernel.name, function);
    }
  }
  const CurrentContext current(driver_, context);
  void* arguments[] = {const_cast<void*>(parameters)};
  const Result result = driver_.launch(function, grid.blocks, grid.blocks_y, 1, kernel.threads, 1, 1, 0,
                                       stream_(device), arguments, nullptr);
  if (result != 0) {
    check(driver_, result,
          detail::concat("the kernel ", kernel.name, " can't be started on ", device.str(), " (", grid.blocks, " × ",
                         grid.blocks_y, " blocks of ", kernel.threads, " threads)"));
  }
}

std::unique_ptr<kernels::Launcher> make_cuda_launcher() {
#ifdef MOELORA_CUDA
  const Driver* opened = setup().driver ? driver() : nullptr;
  if (opened == nullptr) {
    return nullptr;
  }
  // LibTorch's own: libcaffe2_nvrtc.so is linked with it.
  const std::string plain = detail::concat("libnvrtc.so.", setup().library_version / 1000);
  auto nvrtc = Nvrtc::open("libcaffe2_nvrtc.so");
  nvrtc = nvrtc != nullptr ? std::move(nvrtc) : Nvrtc::open(plain);
  if (nvrtc == nullptr) {
    log::warning(detail::concat("neither libcaffe2_nvrtc.so nor ", plain,
                                " can be loaded: kernels of this library are off, which is slower; put LibTorch's lib "
                                "folder and its nvidia folders into LD_LIBRARY_PATH"));
    return nullptr;
  }
  return std::make_unique<NvrtcLauncher>(
      *opened, std::move(nvrtc), CubinCache(CubinCache::default_folder()), [](const at::Device& device) {
        return reinterpret_cast<Stream>(c10::cuda::getCurrentCUDAStream(device.index()).stream());
      });
#else
  return nullptr;
#endif
}

}  // namespace moelora::nn::cuda
