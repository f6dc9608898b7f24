#include "nn/kernels/cuda/driver.h"

#include <dlfcn.h>

#include <optional>

#include "nn/kernels/cuda/shared_library.h"

namespace moelora::nn::cuda {
namespace {

std::optional<Driver> open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays open: its threads outlive every caller
  Driver driver{};
  // Names with _v2: the header defines the plain ones to them.
  const bool whole = library != nullptr && find_function(library, "cuInit", driver.init) &&
                     find_function(library, "cuDriverGetVersion", driver.version) &&
                     find_function(library, "cuGetErrorName", driver.error_name) &&
                     find_function(library, "cuGetErrorString", driver.error_words) &&
                     find_function(library, "cuDeviceGetCount", driver.count_devices) &&
                     find_function(library, "cuDeviceGet", driver.device) &&
                     find_function(library, "cuDeviceGetName", driver.device_name) &&
                     find_function(library, "cuDeviceGetAttribute", driver.device_attribute) &&
                     find_function(library, "cuDevicePrimaryCtxRetain", driver.retain_context) &&
                     find_function(library, "cuCtxPushCurrent_v2", driver.push_context) &&
                     find_function(library, "cuCtxPopCurrent_v2", driver.pop_context) &&
                     find_function(library, "cuMemGetInfo_v2", driver.memory) &&
                     find_function(library, "cuModuleLoadData", driver.load_module) &&
                     find_function(library, "cuModuleGetFunction", driver.find_in_module) &&
                     find_function(library, "cuLaunchKernel", driver.launch);
  return whole ? std::optional<Driver>(driver) : std::nullopt;
}

}  // namespace

const Driver* driver() {
  static const std::optional<Driver> opened = open_driver();
  return opened ? &*opened : nullptr;
}

std::string error_text(const Driver& driver, Result error) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.error_name(error, &name) != 0 || name == nullptr) {
    return "CUDA error " + std::to_string(error);
  }
  driver.error_words(error, &text);
  return text == nullptr ? std::string(name) : std::string(name) + ": " + text;
}

}  // namespace moelora::nn::cuda
