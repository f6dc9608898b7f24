#include "nn/kernels/cuda/driver.h"

#include <dlfcn.h>

#include <optional>

namespace moelora::nn::cuda {
namespace {

template <typename Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

std::optional<Driver> open_driver() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);  // stays open: its threads outlive every caller
  Driver driver{};
  // Names with _v2: the header defines the plain ones to them.
  const bool whole = library != nullptr && find(library, "cuInit", driver.cuInit) &&
                     find(library, "cuDriverGetVersion", driver.cuDriverGetVersion) &&
                     find(library, "cuGetErrorName", driver.cuGetErrorName) &&
                     find(library, "cuGetErrorString", driver.cuGetErrorString) &&
                     find(library, "cuDeviceGetCount", driver.cuDeviceGetCount) &&
                     find(library, "cuDeviceGet", driver.cuDeviceGet) &&
                     find(library, "cuDeviceGetName", driver.cuDeviceGetName) &&
                     find(library, "cuDeviceGetAttribute", driver.cuDeviceGetAttribute) &&
                     find(library, "cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain) &&
                     find(library, "cuCtxPushCurrent_v2", driver.cuCtxPushCurrent) &&
                     find(library, "cuCtxPopCurrent_v2", driver.cuCtxPopCurrent) &&
                     find(library, "cuMemGetInfo_v2", driver.cuMemGetInfo) &&
                     find(library, "cuModuleLoadData", driver.cuModuleLoadData) &&
                     find(library, "cuModuleGetFunction", driver.cuModuleGetFunction) &&
                     find(library, "cuFuncSetAttribute", driver.cuFuncSetAttribute) &&
                     find(library, "cuLaunchKernel", driver.cuLaunchKernel);
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
