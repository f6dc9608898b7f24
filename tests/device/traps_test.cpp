// The pretend device itself: each of its traps must end as it says, and it must count what it says.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "nn/kernels/cuda/launcher.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora {
namespace {

namespace pretend = testing::pretend;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(PretendDevice, FollowingAPointerEndsTheProgram) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({4}, device);
  EXPECT_EXIT(std::printf("%f", *x.const_data_ptr<float>()), ::testing::ExitedWithCode(70), "touched outside");
  EXPECT_EXIT(std::printf("%f", x.accessor<float, 1>()[0]), ::testing::ExitedWithCode(70), "touched outside");
}

TEST(PretendDevice, TensorsOfBothDevicesAreAnError) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({4, 4}, device), host = at::ones({4, 4});
  EXPECT_NE(error_of([&] { at::add(x, host); }).find("same device"), std::string::npos);
  EXPECT_NE(error_of([&] { at::mm(host, x); }).find("found on the CPU: self[4, 4]"), std::string::npos);
  EXPECT_NE(error_of([&] { at::cat({host, x}); }).find("found on the CPU"), std::string::npos);
  EXPECT_NE(error_of([&] { x.index_select(0, at::tensor({1}, at::kLong)); }).find("found on the CPU: index"),
            std::string::npos);
  EXPECT_NE(error_of([&] { x.masked_fill_(host > 0, 1.0); }).find("found on the CPU: mask"), std::string::npos);
}

TEST(PretendDevice, ScalarsAndIndicesOnTheCpuAreTaken) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({4}, device);
  EXPECT_EQ(at::add(x, at::ones({})).sum().item<float>(), 8.0F);
  EXPECT_EQ(x.index({at::tensor({1, 2}, at::kLong)}).sum().item<float>(), 2.0F);
}

TEST(PretendDevice, ACpuGeneratorIsAnError) {
  const at::Device device = pretend::install();
  at::Tensor x = at::ones({4}, device);
  EXPECT_NE(error_of([&] { x.normal_(0, 1, at::make_generator<at::CPUGeneratorImpl>(1)); }).find("CPU generator"),
            std::string::npos);
}

TEST(PretendDevice, FreshMemoryHoldsNan) {
  const at::Device device = pretend::install();
  EXPECT_TRUE(at::empty({5}, at::TensorOptions().device(device)).isnan().all().item<bool>());
  EXPECT_TRUE(at::empty({5}, at::TensorOptions().device(device).dtype(at::kHalf)).isnan().all().item<bool>());
}

TEST(PretendDevice, CountsOperatorsWaitsAndUploads) {
  const at::Device device = pretend::install();
  const at::Tensor host = at::ones({4});
  pretend::reset();
  const at::Tensor x = host.to(device);  // a blocking upload waits
  EXPECT_EQ(pretend::counters().uploads, 1);
  EXPECT_EQ(pretend::counters().waits, 1);
  EXPECT_EQ(pretend::counters().uploaded_bytes, 16);
  x.cpu();
  (x + 1).sum().item();
  auto counted = pretend::counters();
  EXPECT_EQ(counted.waits, 3);
  EXPECT_EQ(counted.operators, 2) << counted.to_text();
  pretend::reset();
  x.view({2, 2}).transpose(0, 1).select(0, 1);
  at::empty_like(x);
  EXPECT_EQ(pretend::counters().operators, 0) << "views and allocations launch nothing";
  x.nonzero();
  x.index({x > 0});
  EXPECT_EQ(pretend::counters().waits, 2) << "the size of the result is not known before";
}

TEST(PretendDevice, PinnedMemoryIsCopiedWithoutWaiting) {
  const at::Device device = pretend::install();
  const at::Tensor pinned = at::ones({4}).pin_memory();
  EXPECT_TRUE(pinned.is_pinned());
  EXPECT_FALSE(at::ones({4}).is_pinned());
  at::Tensor back = at::empty({4}, at::TensorOptions().pinned_memory(true));
  pretend::reset();
  const at::Tensor x = pinned.to(device, /*non_blocking=*/true);
  back.copy_(x, /*non_blocking=*/true);
  EXPECT_EQ(pretend::counters().uploads, 1);
  EXPECT_EQ(pretend::counters().waits, 0);
  EXPECT_TRUE(at::equal(back, pinned));
}

TEST(PretendDevice, CountsBytes) {
  const at::Device device = pretend::install();
  const std::int64_t before = pretend::live_bytes();
  pretend::reset();
  {
    const at::Tensor x = at::zeros({1024}, device);
    EXPECT_EQ(pretend::live_bytes(), before + 4096);
    EXPECT_GE(pretend::counters().peak_bytes, before + 4096);
  }
  EXPECT_EQ(pretend::live_bytes(), before);
}

TEST(PretendDevice, ListsAreChangedInPlaceByOneOperator) {
  const at::Device device = pretend::install();
  std::vector<at::Tensor> gradients{at::full({3}, 8.0, device), at::full({2, 2}, 4.0, device)};
  at::Tensor found_inf = at::zeros({}, device);
  const at::Tensor scale = at::full({}, 0.25, device);
  pretend::reset();
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, scale);
  EXPECT_EQ(pretend::counters().operators, 1) << pretend::counters().to_text();
  EXPECT_EQ(gradients[0].sum().item<float>(), 6.0F);
  EXPECT_EQ(gradients[1].sum().item<float>(), 4.0F);
  EXPECT_EQ(found_inf.item<float>(), 0.0F);
  gradients[1].div_(0);
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, scale);
  EXPECT_EQ(found_inf.item<float>(), 1.0F);
  pretend::reset();
  at::_foreach_mul_(gradients, 0.0);
  EXPECT_EQ(pretend::counters().operators, 1);
  EXPECT_EQ(gradients[0].sum().item<float>(), 0.0F);
}

struct AddNumber {
  static constexpr const char* kName = "AddNumber";
  static constexpr const char* kFile = "none.cuh";
  static constexpr std::uint32_t kThreads = 4;
  static constexpr bool kBarriers = false;
  float* x;
  float number;  // four bytes of padding behind it
  void operator()() const { x[nn::kernels::host_thread().thread] += number; }
};

TEST(PretendDevice, OurKernelsRunOnItsMemory) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({4}, device), host = at::ones({4});
  pretend::reset();
  nn::kernels::launch(device, AddNumber{nn::kernels::mutable_elements<float>(x), 1.0F}, {1});
  EXPECT_EQ(pretend::counters().by_operator["AddNumber"], 1);
  EXPECT_EQ(x.sum().item<float>(), 8.0F);
  EXPECT_NE(error_of([&] {
              nn::kernels::launch(device, AddNumber{nn::kernels::mutable_elements<float>(host), 1.0F}, {1});
            }).find("address of the host"),
            std::string::npos);
}

#if __has_builtin(__builtin_clear_padding)
TEST(PretendDevice, WhatAStackLeftInPaddingIsNoAddress) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({4}, device);
  AddNumber kernel{nn::kernels::mutable_elements<float>(x), 1.0F};
  const auto* host = &kernel;  // its lower half falls on the number, its upper one on the padding
  std::memcpy(reinterpret_cast<char*>(&kernel) + offsetof(AddNumber, number), &host, sizeof host);
  EXPECT_EQ(error_of([&] { nn::kernels::launch(device, kernel, {1}); }), "");
}
#endif

TEST(PretendDevice, NormsKeepTheirSumsInFp32) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::randn({3, 64}).to(at::kHalf), weight = at::randn({64}).to(at::kHalf);
  pretend::reset();
  const auto [y, mean, rstd] = at::native_layer_norm(x.to(device), {64}, weight.to(device), weight.to(device), 1e-5);
  EXPECT_EQ(pretend::counters().operators, 1);
  EXPECT_EQ(y.scalar_type(), at::kHalf);
  EXPECT_EQ(mean.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(mean.cpu().flatten(), x.to(at::kFloat).mean(1), 1e-5, 1e-6));
  const auto [dx, dweight, dbias] = at::native_layer_norm_backward(y, x.to(device), {64}, mean, rstd, weight.to(device),
                                                                   weight.to(device), {true, false, false});
  EXPECT_EQ(dx.scalar_type(), at::kHalf);
  EXPECT_FALSE(dweight.defined());
}

TEST(PretendDevice, FusedAdamWSkipsWhereAValueIsNotFinite) {
  const at::Device device = pretend::install();
  const auto make = [&](double value) { return std::vector<at::Tensor>{at::full({3}, value, device)}; };
  auto parameters = make(1.0), gradients = make(2.0), means = make(0.0), squares = make(0.0);
  std::vector<at::Tensor> steps{at::ones({}, device)};
  const at::Tensor scale = at::ones({}, device);
  at::Tensor found_inf = at::ones({}, device);
  const auto step = [&] {
    at::_fused_adamw_(parameters, gradients, means, squares, {}, steps, 0.1, 0.9, 0.999, 0.0, 1e-8, false, false, scale,
                      found_inf);
  };
  pretend::reset();
  step();
  EXPECT_EQ(pretend::counters().operators, 1) << pretend::counters().to_text();
  EXPECT_EQ(parameters[0].sum().item<float>(), 3.0F) << "skipped";
  found_inf.zero_();
  step();
  EXPECT_NEAR(parameters[0].sum().item<float>(), 2.7F, 1e-5);
}

}  // namespace
}  // namespace moelora
