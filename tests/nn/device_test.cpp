#include "moelora/nn/device.h"

#include <gtest/gtest.h>

#include <string>

#include "moelora/io/error.h"
#include "nn/kernels/cuda/driver.h"
#include "nn/kernels/cuda/setup.h"

namespace moelora::nn {
namespace {

// What showConfig prints of LibTorch 2.10's wheel (CUDA 12.8) and of 2.11's (CUDA 13.0).
const char* const kCuda128 =
    "NVCC architecture flags: -gencode;arch=compute_70,code=sm_70;-gencode;arch=compute_75,code=sm_75;-gencode;"
    "arch=compute_80,code=sm_80;-gencode;arch=compute_90,code=sm_90;-gencode;arch=compute_120,code=sm_120";
const char* const kCuda130 =
    "NVCC architecture flags: -gencode;arch=compute_75,code=sm_75;-gencode;arch=compute_80,code=sm_80;-gencode;"
    "arch=compute_86,code=sm_86;-gencode;arch=compute_90,code=sm_90;-gencode;arch=compute_100,code=sm_100";

cuda::Setup usable() {
  cuda::Setup setup;
  setup.built = true;
  setup.driver = true;
  setup.driver_version = 13000;
  setup.library_version = 12080;
  setup.architectures = kCuda128;
  setup.cards = {{"Tesla V100-SXM2-32GB", 7, 0, 80}};
  return setup;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(CudaSetup, HoldsCodeForACardOfTheSameMajorVersionOrThroughIntermediateCode) {
  EXPECT_TRUE(cuda::runs_on(kCuda128, 7, 0));
  EXPECT_TRUE(cuda::runs_on(kCuda128, 8, 9));  // sm_80 runs on it
  EXPECT_FALSE(cuda::runs_on(kCuda130, 7, 0));
  EXPECT_TRUE(cuda::runs_on(kCuda130, 7, 5));
  EXPECT_FALSE(cuda::runs_on(kCuda130, 12, 0));
  EXPECT_TRUE(cuda::runs_on("arch=compute_90,code=compute_90", 12, 0));
  EXPECT_FALSE(cuda::runs_on("arch=compute_90,code=compute_90", 8, 0));
  EXPECT_TRUE(cuda::runs_on("arch=compute_90a,code=sm_90a", 9, 0));
  EXPECT_FALSE(cuda::runs_on("arch=compute_100f,code=sm_100f", 10, 3));
  EXPECT_FALSE(cuda::runs_on("", 8, 0));
}

TEST(CudaSetup, AMissingArchitectureNamesTheCardTheCodeAndThePreset) {
  cuda::Setup setup = usable();
  EXPECT_EQ(cuda::problem(setup, 0), "");
  setup.architectures = kCuda130;
  setup.library_version = 13000;
  const std::string text = cuda::problem(setup, 0);
  for (const char* part : {"Tesla V100-SXM2-32GB has compute capability 7.0", "(CUDA 13.0)",
                           "sm_75, sm_80, sm_86, sm_90, sm_100 only", "preset v100"}) {
    EXPECT_TRUE(contains(text, part)) << text;
  }
  setup.architectures.clear();  // not known: LibTorch's own error will have to do
  EXPECT_EQ(cuda::problem(setup, 0), "");
  setup.architectures = kCuda130;
  setup.cards[0] = {"A card to come", 13, 0, 1};
  EXPECT_TRUE(contains(cuda::problem(setup, 0), "MOELORA_LIBTORCH_VERSION")) << cuda::problem(setup, 0);
}

TEST(CudaSetup, WhatIsMissingIsSaidAndNothingElseIsBlamed) {
  cuda::Setup setup = usable();
  setup.cards.clear();
  EXPECT_TRUE(contains(cuda::problem(setup, 0), "no GPU to this process")) << cuda::problem(setup, 0);
  setup.start_error = "CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected";
  EXPECT_TRUE(contains(cuda::problem(setup, 0), setup.start_error)) << cuda::problem(setup, 0);
  setup.driver = false;
  EXPECT_TRUE(contains(cuda::problem(setup, 0), "no NVIDIA driver")) << cuda::problem(setup, 0);
  EXPECT_FALSE(contains(cuda::problem(setup, 0), "built")) << cuda::problem(setup, 0);
  EXPECT_TRUE(contains(cuda::problem(cuda::Setup(), 0), "built without CUDA"));

  setup = usable();
  setup.driver_version = 11040;
  EXPECT_TRUE(contains(cuda::problem(setup, 0), "serves CUDA 11.4")) << cuda::problem(setup, 0);
  setup = usable();
  EXPECT_TRUE(contains(cuda::problem(setup, 1), "from 0 to 0")) << cuda::problem(setup, 1);
}

TEST(Device, TheProcessorHasMemoryAndNoComputeCapability) {
  EXPECT_EQ(device_problem(at::kCPU), "");
  const DeviceInfo info = device_info(at::kCPU);
  EXPECT_EQ(info.name, "CPU");
  EXPECT_GT(info.free_bytes, 0U);
  EXPECT_GT(info.total_bytes, info.free_bytes);
  EXPECT_EQ(info.major, 0);
  EXPECT_FALSE(info.has_bfloat16());
}

TEST(Device, AGpuThatCantBeUsedIsAnErrorWithTheReason) {
  const std::string problem = device_problem(at::kCUDA);
  if (problem.empty()) {
    EXPECT_GT(device_info(at::kCUDA).total_bytes, 0U);
    EXPECT_GE(cuda_device_count(), 1);
    return;
  }
  try {
    device_info(at::kCUDA);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()), "cuda: " + problem);
  }
}

TEST(CudaDriver, IsOpenedWhereThereIsOne) {
  if (const cuda::Driver* driver = cuda::driver()) {
    EXPECT_TRUE(contains(cuda::error_text(*driver, 1), "CUDA_ERROR_INVALID_VALUE"));
  } else {
    EXPECT_FALSE(cuda::setup().driver);
  }
}

}  // namespace
}  // namespace moelora::nn
