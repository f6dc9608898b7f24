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

// Functions of the library, under other names: cuda.h makes macros of some of its own.
struct Driver {
  Result (*init)(unsigned flags);
  Result (*version)(int* version);
  Result (*error_name)(Result error, const char** text);
  Result (*error_words)(Result error, const char** text);
  Result (*count_devices)(int* count);
  Result (*device)(DeviceNumber* device, int ordinal);
  Result (*device_name)(char* name, int size, DeviceNumber device);
  Result (*device_attribute)(int* value, int attribute, DeviceNumber device);
  Result (*retain_context)(Context* context, DeviceNumber device);
  Result (*push_context)(Context context);
  Result (*pop_context)(Context* context);
  Result (*memory)(std::size_t* free, std::size_t* total);
  Result (*load_module)(Module* module, const void* image);
  Result (*find_in_module)(Function* function, Module module, const char* name);
  Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters,
                   void** extra);
};

/// Null where the machine has no driver, or one that lacks a function of the table.
const Driver* driver();

/// "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
std::string error_text(const Driver& driver, Result error);

}  // namespace moelora::nn::cuda
