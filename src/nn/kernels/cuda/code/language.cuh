#pragma once
// What device code needs of its language. Two compilers read these files: NVRTC for the card, and the host's compiler,
// whose threads are those of host_threads.h, so that tests run the same arithmetic without a card. Hence no standard
// headers here, and nothing of LibTorch.
//
// A kernel is a struct: its members are the parameters, operator() is the work of one thread. Members of 4 bytes come
// in pairs: the tests' device takes each 8 bytes for a possible address, and padding holds anything.
//   kName, kFile   the struct's and the file's name
//   kThreads       threads of a block
//   kBlocksAtOnce  optional: blocks that a processor shall run at the same time, which limits their registers
//   kBarriers      whether threads of a block meet (barrier, shuffles, shared memory)
// Sums have a fixed order and use no atomics: a resumed run has the bytes of one that was never stopped.

#ifdef __CUDACC_RTC__

#define MOELORA_DEVICE __device__ __forceinline__
#define MOELORA_SHARED __shared__
#define MOELORA_UNROLL _Pragma("unroll")
#define MOELORA_UNROLL_TWICE _Pragma("unroll 2")
#define MOELORA_NO_UNROLL _Pragma("unroll 1")

namespace moelora::device {

using int32 = int;
using uint32 = unsigned int;
using int64 = long long;
using uint64 = unsigned long long;

MOELORA_DEVICE uint32 block() { return blockIdx.x; }
MOELORA_DEVICE uint32 block_y() { return blockIdx.y; }
MOELORA_DEVICE uint32 blocks() { return gridDim.x; }
MOELORA_DEVICE uint32 blocks_y() { return gridDim.y; }
MOELORA_DEVICE uint32 thread() { return threadIdx.x; }

MOELORA_DEVICE void barrier() { __syncthreads(); }
/// The value that lane (own ^ mask) of the warp holds; all 32 lanes call it.
MOELORA_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
MOELORA_DEVICE int32 shuffle_xor(int32 value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

MOELORA_DEVICE uint32 bits_of(float x) { return __float_as_uint(x); }
MOELORA_DEVICE float float_of(uint32 bits) { return __uint_as_float(bits); }
MOELORA_DEVICE float exponential(float x) { return expf(x); }
MOELORA_DEVICE float logarithm(float x) { return logf(x); }
MOELORA_DEVICE float square_root(float x) { return sqrtf(x); }
MOELORA_DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
/// a · b + c, rounded once.
MOELORA_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
MOELORA_DEVICE double multiply_add(double a, double b, double c) { return fma(a, b, c); }
MOELORA_DEVICE double infinity() { return __longlong_as_double(0x7ff0000000000000ll); }

template <typename Kernel, typename = const int>
struct BlocksAtOnce {
  static constexpr int kValue = 1;
};
template <typename Kernel>
struct BlocksAtOnce<Kernel, decltype(Kernel::kBlocksAtOnce)> {
  static constexpr int kValue = Kernel::kBlocksAtOnce;
};

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, BlocksAtOnce<Kernel>::kValue) run(const Kernel kernel) {
  kernel();
}

}  // namespace moelora::device

#else

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "nn/kernels/cuda/host_threads.h"

#define MOELORA_DEVICE inline
#define MOELORA_SHARED static thread_local
#define MOELORA_UNROLL
#define MOELORA_UNROLL_TWICE
#define MOELORA_NO_UNROLL

namespace moelora::device {

using int32 = std::int32_t;
using uint32 = std::uint32_t;
using int64 = std::int64_t;
using uint64 = std::uint64_t;

MOELORA_DEVICE uint32 block() { return nn::kernels::host_thread().block; }
MOELORA_DEVICE uint32 block_y() { return nn::kernels::host_thread().block_y; }
MOELORA_DEVICE uint32 blocks() { return nn::kernels::host_thread().blocks; }
MOELORA_DEVICE uint32 blocks_y() { return nn::kernels::host_thread().blocks_y; }
MOELORA_DEVICE uint32 thread() { return nn::kernels::host_thread().thread; }

MOELORA_DEVICE void barrier() { nn::kernels::host_barrier(); }
MOELORA_DEVICE float shuffle_xor(float value, int mask) {
  return std::bit_cast<float>(nn::kernels::host_shuffle_xor(std::bit_cast<uint32>(value), mask));
}
MOELORA_DEVICE int32 shuffle_xor(int32 value, int mask) {
  return std::bit_cast<int32>(nn::kernels::host_shuffle_xor(std::bit_cast<uint32>(value), mask));
}

MOELORA_DEVICE uint32 bits_of(float x) { return std::bit_cast<uint32>(x); }
MOELORA_DEVICE float float_of(uint32 bits) { return std::bit_cast<float>(bits); }
MOELORA_DEVICE float exponential(float x) { return std::exp(x); }
MOELORA_DEVICE float logarithm(float x) { return std::log(x); }
MOELORA_DEVICE float square_root(float x) { return std::sqrt(x); }
MOELORA_DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }
MOELORA_DEVICE float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
MOELORA_DEVICE double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
MOELORA_DEVICE double infinity() { return std::numeric_limits<double>::infinity(); }

}  // namespace moelora::device

#endif

namespace moelora::device {

constexpr uint32 kWarp = 32;

MOELORA_DEVICE uint32 lane() { return thread() % kWarp; }
MOELORA_DEVICE uint32 warp() { return thread() / kWarp; }

/// Sum (largest) over the 32 lanes of a warp, in every lane; the order of the sum is fixed.
MOELORA_DEVICE float warp_sum(float value) {
  MOELORA_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    value += shuffle_xor(value, mask);
  }
  return value;
}
MOELORA_DEVICE float warp_max(float value) {
  MOELORA_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

/// Sum over a block of `threads` threads (a multiple of 32, 1024 at most), in every thread; the order is fixed.
/// `shared` [32]: may be used again after the next barrier.
template <uint32 threads>
MOELORA_DEVICE float block_sum(float value, float* shared) {
  value = warp_sum(value);
  if (threads <= kWarp) {
    return value;
  }
  if (lane() == 0) {
    shared[warp()] = value;
  }
  barrier();
  float sum = 0.0f;
  MOELORA_UNROLL
  for (uint32 i = 0; i < threads / kWarp; ++i) {
    sum += shared[i];
  }
  return sum;
}

}  // namespace moelora::device
