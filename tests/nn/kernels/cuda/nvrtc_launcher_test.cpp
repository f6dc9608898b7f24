#include "nn/kernels/cuda/nvrtc_launcher.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "moelora/io/error.h"
#include "moelora/nn/device.h"
#include "nn/kernels/cuda/all_kernels.h"
#include "support/shared.h"

namespace moelora::nn::cuda {
namespace {

using kernels::Grid;
using kernels::KernelInfo;

// A driver that writes down what it is asked for; all it knows is a V100.
struct Asked {
  int loaded = 0;
  int contexts = 0;  // now current
  std::string image, symbol;
  std::vector<unsigned> grid;
  Stream stream = nullptr;
  int argument = 0;
  Result load_error = 0;
  Result launch_error = 0;
};
Asked asked;

Driver fake_driver() {
  Driver fake{};
  fake.error_name = [](Result, const char** text) { return (*text = "CUDA_ERROR_OF_A_TEST", 0); };
  fake.error_words = [](Result, const char** text) { return (*text = "for a test", 0); };
  fake.device = [](DeviceNumber* device, int ordinal) { return (*device = ordinal, 0); };
  fake.device_attribute = [](int* value, int attribute, DeviceNumber device) {
    *value = attribute == kComputeCapabilityMajor ? 7 + device : 0;
    return 0;
  };
  fake.retain_context = [](Context* context, DeviceNumber device) {
    *context = reinterpret_cast<Context>(static_cast<std::uintptr_t>(1000 + device));
    return 0;
  };
  fake.push_context = [](Context) { return (++asked.contexts, 0); };
  fake.pop_context = [](Context*) { return (--asked.contexts, 0); };
  fake.load_module = [](Module* module, const void* image) {
    EXPECT_EQ(asked.contexts, 1);
    ++asked.loaded;
    asked.image = static_cast<const char*>(image);
    *module = reinterpret_cast<Module>(static_cast<std::uintptr_t>(asked.loaded));
    return asked.load_error;
  };
  fake.find_in_module = [](Function* function, Module module, const char* name) {
    asked.symbol = name;
    *function = reinterpret_cast<Function>(module);
    return 0;
  };
  fake.launch = [](Function function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, Stream stream, void** parameters, void**) {
    EXPECT_EQ(asked.contexts, 1);
    asked.grid = {
        static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(function)), x, y, z, block_x, block_y, block_z, shared};
    asked.stream = stream;
    std::memcpy(&asked.argument, parameters[0], sizeof asked.argument);
    return asked.launch_error;
  };
  return fake;
}

class FakeNvrtc : public Nvrtc {
 public:
  explicit FakeNvrtc(int& compiled) : compiled_(compiled) {}
  std::string version() const override { return "1.0"; }
  const std::vector<int>& architectures() const override { return architectures_; }
  CompiledKernel compile(const KernelInfo& kernel, const Target& target, bool) const override {
    ++compiled_;
    return {"symbol of " + kernel.name, kernel.name + " for " + target.name(), ""};
  }

 private:
  int& compiled_;
  std::vector<int> architectures_{70, 80};
};

class NvrtcLauncherTest : public ::testing::Test {
 protected:
  NvrtcLauncherTest() { asked = {}; }
  NvrtcLauncher launcher(const std::filesystem::path& folder) {
    return NvrtcLauncher(driver_, std::make_unique<FakeNvrtc>(compiled_), CubinCache(folder),
                         [](const at::Device&) { return reinterpret_cast<Stream>(static_cast<std::uintptr_t>(77)); });
  }
  static KernelInfo named(const std::string& name) {
    KernelInfo kernel = kernels::all_kernels().front();
    kernel.name = name;
    return kernel;
  }

  const Driver driver_ = fake_driver();
  const at::Device first_{at::kCUDA, 0};
  int compiled_ = 0;
  const int argument_ = 4711;
};

TEST_F(NvrtcLauncherTest, CompilesOnceAndStartsOnTheCurrentStream) {
  NvrtcLauncher launcher = this->launcher("");
  launcher.launch(named("A"), first_, {3, 2}, &argument_);
  EXPECT_EQ(asked.image, "A for sm_70");
  EXPECT_EQ(asked.symbol, "symbol of A");
  EXPECT_EQ(asked.grid, (std::vector<unsigned>{1, 3, 2, 1, kernels::all_kernels().front().threads, 1, 1, 0}));
  EXPECT_EQ(asked.stream, reinterpret_cast<Stream>(static_cast<std::uintptr_t>(77)));
  EXPECT_EQ(asked.argument, argument_);
  EXPECT_EQ(asked.contexts, 0);
  launcher.launch(named("B"), first_, {1, 1}, &argument_);
  EXPECT_EQ(asked.grid[0], 2U);
  launcher.launch(named("A"), first_, {1, 1}, &argument_);
  EXPECT_EQ(asked.grid[0], 1U);  // the first one's function
  EXPECT_EQ(compiled_, 2);
  EXPECT_EQ(asked.loaded, 2);
  launcher.launch(named("A"), at::Device(at::kCUDA, 1), {1, 1}, &argument_);  // another card: another module
  EXPECT_EQ(asked.image, "A for sm_80");
  EXPECT_EQ(asked.loaded, 3);
}

TEST_F(NvrtcLauncherTest, KeepsKernelsForTheNextProcess) {
  const moelora::testing::TemporaryFolder folder;
  launcher(folder.path() / "kernels").launch(named("A"), first_, {1, 1}, &argument_);
  launcher(folder.path() / "kernels").launch(named("A"), first_, {1, 1}, &argument_);
  EXPECT_EQ(compiled_, 1);
  EXPECT_EQ(asked.loaded, 2);
  EXPECT_EQ(asked.image, "A for sm_70");
  EXPECT_EQ(asked.symbol, "symbol of A");
}

TEST_F(NvrtcLauncherTest, AFolderThatCantBeUsedIsNoError) {
  launcher("/dev/null/kernels").launch(named("A"), first_, {1, 1}, &argument_);
  EXPECT_EQ(asked.image, "A for sm_70");
}

TEST_F(NvrtcLauncherTest, ErrorsNameTheKernelAndTheDriversReason) {
  const auto text_of = [&](const std::string& kernel) -> std::string {
    try {
      launcher("").launch(named(kernel), first_, {5, 1}, &argument_);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  asked.launch_error = 1;
  EXPECT_EQ(text_of("A").rfind("the kernel A can't be started on cuda:0 (5 × 1 blocks of ", 0), 0U) << text_of("A");
  EXPECT_NE(text_of("A").find("CUDA_ERROR_OF_A_TEST: for a test"), std::string::npos);
  asked.load_error = 1;
  EXPECT_EQ(text_of("B"), "the kernel B can't be loaded for sm_70: CUDA_ERROR_OF_A_TEST: for a test");
  EXPECT_EQ(asked.contexts, 0);
}

TEST_F(NvrtcLauncherTest, IsThereForCudaWhereCudaIs) {
  EXPECT_EQ(kernels::launcher_for(at::kCUDA) != nullptr, device_problem(at::kCUDA).empty());
}

}  // namespace
}  // namespace moelora::nn::cuda
