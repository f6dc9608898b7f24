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
  const bool whole = library != nullptr && find_function(library, "cuInit", driver.cuInit) &&
                     find_function(library, "cuDriverGetVersion", driver.cuDriverGetVersion) &&
                     find_function(library, "cuGetErrorName", driver.cuGetErrorName) &&
                     find_function(library, "cuGetErrorString", driver.cuGetErrorString) &&
                     find_function(library, "cuDeviceGetCount", driver.cuDeviceGetCount) &&
                     find_function(library, "cuDeviceGet", driver.cuDeviceGet) &&
                     find_function(library, "cuDeviceGetName", driver.cuDeviceGetName) &&
                     find_function(library, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute) &&
                     find_function(library, "cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain) &&
                     find_function(library, "cuCtxPushCurrent_v2", driver.cuCtxPushCurrent) &&
                     find_function(library, "cuCtxPopCurrent_v2", driver.cuCtxPopCurrent) &&
                     find_function(library, "cuMemGetInfo_v2", driver.cuMemGetInfo) &&
                     find_function(library, "cuModuleLoadData", driver.cuModuleLoadData) &&
                     find_function(library, "cuModuleGetFunction", driver.cuModuleGetFunction) &&
                     find_function(library, "cuLaunchKernel", driver.cuLaunchKernel);
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
  if (driver.cuGetErrorName(error, &name) != 0 || name == nullptr) {
    return "CUDA error " + std::to_string(error);
  }
  driver.cuGetErrorString(error, &text);
  return text == nullptr ? std::string(name) : std::string(name) + ": " + text;
}

}  // namespace moelora::nn::cuda
