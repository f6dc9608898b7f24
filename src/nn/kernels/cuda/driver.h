#pragma once
// NVIDIA's driver library (libcuda.so.1), opened when first asked for: a program starts on machines that have none.
// Prototypes are CUDA's driver interface (cuda.h), written out so that no CUDA toolkit is needed.

#include <cstddef>
#include <string>

namespace moelora::nn::cuda {

using Result = int;                  // CUresult; 0: success
using DeviceNumber = int;            // CUdevice
using Pointer = unsigned long long;  // CUdeviceptr
struct ContextOfDriver;              // CUctx_st
struct ModuleOfDriver;               // CUmod_st
struct FunctionOfDriver;             // CUfunc_st
struct StreamOfDriver;               // CUstream_st
using Context = ContextOfDriver*;
using Module = ModuleOfDriver*;
using Function = FunctionOfDriver*;
using Stream = StreamOfDriver*;

// CUdevice_attribute
constexpr int kMultiprocessorCount = 16;
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;

struct Driver {
  Result (*cuInit)(unsigned flags);
  Result (*cuDriverGetVersion)(int* version);
  Result (*cuGetErrorName)(Result error, const char** text);
  Result (*cuGetErrorString)(Result error, const char** text);
  Result (*cuDeviceGetCount)(int* count);
  Result (*cuDeviceGet)(DeviceNumber* device, int ordinal);
  Result (*cuDeviceGetName)(char* name, int size, DeviceNumber device);
  Result (*cuDeviceGetAttribute)(int* value, int attribute, DeviceNumber device);
  Result (*cuDevicePrimaryCtxRetain)(Context* context, DeviceNumber device);
  Result (*cuCtxPushCurrent)(Context context);
  Result (*cuCtxPopCurrent)(Context* context);
  Result (*cuMemGetInfo)(std::size_t* free, std::size_t* total);
  Result (*cuModuleLoadData)(Module* module, const void* image);
  Result (*cuModuleGetFunction)(Function* function, Module module, const char* name);
  Result (*cuLaunchKernel)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                           unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                           void** extra);
};

/// Null where the machine has no driver, or one that lacks a function of the table.
const Driver* driver();

/// "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
std::string error_text(const Driver& driver, Result error);

}  // namespace moelora::nn::cuda
