#include "nn/kernels/cuda/nvrtc.h"

#include <gtest/gtest.h>

#include "device_code/resources.h"
#include "moelora/io/error.h"
#include "nn/kernels/cuda/all_kernels.h"
#include "support/nvrtc.h"

namespace moelora::nn::cuda {
namespace {

TEST(Nvrtc, ChoosesTheNewestCodeThatACardRuns) {
  const std::vector<int> known{50, 70, 75, 80, 86, 90};
  EXPECT_EQ(target_for(70, known).name(), "sm_70");
  EXPECT_EQ(target_for(72, known).name(), "sm_70");
  EXPECT_EQ(target_for(89, known).name(), "sm_86");
  EXPECT_EQ(target_for(120, known).name(), "compute_90");  // the driver translates it
  EXPECT_EQ(target_for(35, known).architecture, 0);
}

TEST(Nvrtc, IsNoneWhereThereIsNoSuchLibrary) {
  EXPECT_EQ(Nvrtc::open("libnvrtc-of-nobody.so"), nullptr);
  EXPECT_EQ(Nvrtc::open("libdl.so.2"), nullptr);  // one that lacks its functions
}

TEST(Nvrtc, CompilesAndNamesTheFunction) {
  const auto nvrtc = moelora::testing::open_nvrtc();
  if (nvrtc == nullptr) {
    GTEST_SKIP() << "no NVRTC";
  }
  const CompiledKernel made = nvrtc->compile(kernels::all_kernels().front(), {80, true}, true);
  EXPECT_EQ(made.symbol.rfind("_ZN7moelora6device3run", 0), 0U) << made.symbol;
  EXPECT_EQ(made.image.substr(0, 4),
            "\x7f"
            "ELF");
  EXPECT_TRUE(moelora::testing::resources_of(made.log)) << made.log;
  EXPECT_NE(nvrtc->compile(kernels::all_kernels().front(), {80, false}, false).image.find(".target sm_80"),
            std::string::npos);
}

TEST(Nvrtc, AnErrorNamesTheKernelAndShowsTheLog) {
  const auto nvrtc = moelora::testing::open_nvrtc();
  if (nvrtc == nullptr) {
    GTEST_SKIP() << "no NVRTC";
  }
  kernels::KernelInfo kernel = kernels::all_kernels().front();
  kernel.name = "NoSuchKernel<float>";
  try {
    nvrtc->compile(kernel, {80, true}, false);
    FAIL() << "no error";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(
        text.find("could not compile the kernel NoSuchKernel<float> (" + std::string(kernel.file) + ") for sm_80"),
        std::string::npos)
        << text;
    EXPECT_NE(text.find("error: "), std::string::npos) << text;
  }
}

TEST(Resources, AreReadFromTheAssemblersWords) {
  const auto found = moelora::testing::resources_of(
      "ptxas info    : Function properties for _Z3run\n"
      "ptxas         .     48 bytes stack frame, 44 bytes spill stores, 52 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 1 barriers, 128 bytes smem, 408 bytes cmem[0]\n");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->registers, 255);
  EXPECT_EQ(found->stack_bytes, 48);
  EXPECT_EQ(found->spill_stores, 44);
  EXPECT_EQ(found->spill_loads, 52);
  EXPECT_EQ(found->shared_bytes, 128);
  EXPECT_FALSE(moelora::testing::resources_of("ptxas info    : Used 255 registers"));
}

}  // namespace
}  // namespace moelora::nn::cuda
