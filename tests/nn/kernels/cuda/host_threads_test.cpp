#include "nn/kernels/cuda/host_threads.h"

#include <gtest/gtest.h>

#include <vector>

#include "nn/kernels/cuda/code/language.cuh"
#include "nn/kernels/cuda/launcher.h"
#include "support/host_launcher.h"

namespace moelora::nn::kernels {
namespace {

using device::barrier;
using device::block;
using device::block_y;
using device::thread;

template <typename Kernel>
void run_kernel(const Kernel& kernel, Grid grid) {
  const testing::HostKernels kernels;
  launch(at::kCPU, kernel, grid);
}

struct SumOfBlock {
  static constexpr const char* kName = "SumOfBlock";
  static constexpr const char* kFile = "";
  static constexpr device::uint32 kThreads = 96;
  static constexpr bool kBarriers = true;
  float* sums;
  void operator()() const {
    MOELORA_SHARED float shared[32];
    const float sum =
        device::block_sum<kThreads>(static_cast<float>(thread() + 1000 * block() + 10 * block_y()), shared);
    sums[(block_y() * device::blocks() + block()) * kThreads + thread()] = sum;
  }
};

TEST(HostThreads, MeetAtBarriersAndShuffles) {
  std::vector<float> sums(3 * 2 * 96, -1.0f);
  run_kernel(SumOfBlock{sums.data()}, {3, 2});
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const auto block = static_cast<float>(i / 96 % 3);
    const auto row = static_cast<float>(i / 96 / 3);
    EXPECT_EQ(sums[i], 95.0f * 48.0f + 96.0f * (1000.0f * block + 10.0f * row)) << i;
  }
}

struct Rotate {  // through shared memory, several times: a missing barrier would show
  static constexpr const char* kName = "Rotate";
  static constexpr const char* kFile = "";
  static constexpr device::uint32 kThreads = 64;
  static constexpr bool kBarriers = true;
  int* out;
  void operator()() const {
    MOELORA_SHARED int shared[64];
    int value = static_cast<int>(thread());
    for (int turn = 0; turn < 5; ++turn) {
      shared[thread()] = value;
      barrier();
      value = shared[(thread() + 1) % 64];
      barrier();
    }
    out[thread()] = value;
  }
};

TEST(HostThreads, ShareMemory) {
  std::vector<int> out(64);
  run_kernel(Rotate{out.data()}, {1});
  for (int i = 0; i < 64; ++i) {
    EXPECT_EQ(out[static_cast<std::size_t>(i)], (i + 5) % 64);
  }
}

struct LeavesEarly {
  static constexpr const char* kName = "LeavesEarly";
  static constexpr const char* kFile = "";
  static constexpr device::uint32 kThreads = 32;
  static constexpr bool kBarriers = true;
  void operator()() const {
    if (thread() != 7) {
      barrier();
    }
  }
};

TEST(HostThreads, ThreadsThatReturnBeforeABarrierAreAnError) {
  EXPECT_THROW(run_kernel(LeavesEarly{}, {1}), c10::Error);
}

TEST(HostThreads, AnEmptyGridRunsNothing) { run_kernel(LeavesEarly{}, {0}); }

}  // namespace
}  // namespace moelora::nn::kernels
