#include "nn/kernels/cuda/all_kernels.h"

#include <gtest/gtest.h>

#include <set>

#include "nn/kernels/cuda/device_sources.h"

namespace moelora::nn::kernels {
namespace {

TEST(AllKernels, AreNamedOnceAndTheirSourcesAreAboard) {
  std::set<std::string> names;
  for (const KernelInfo& kernel : all_kernels()) {
    EXPECT_TRUE(names.insert(kernel.name).second) << kernel.name << " is listed twice";
    EXPECT_TRUE(device_sources().contains(kernel.file)) << kernel.file;
    const std::string bare = kernel.name.substr(0, kernel.name.find('<'));
    EXPECT_NE(device_sources().at(kernel.file).find("struct " + bare + " "), std::string::npos) << kernel.name;
  }
  EXPECT_GE(names.size(), 3u);
}

TEST(KernelInfo, NamesTheGlobalFunctionForNvrtc) {
  EXPECT_EQ(all_kernels().front().expression().rfind("moelora::device::run<moelora::device::", 0), 0u);
}

}  // namespace
}  // namespace moelora::nn::kernels
