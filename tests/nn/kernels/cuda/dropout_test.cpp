#include "nn/kernels/cuda/dropout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/nn/dropout.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

class DeviceDropout : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const testing::HostKernels kernels_;
  const RowContext context_ =
      RowContext::plain(Segments::from_lengths({3, 1, 4}), at::kCPU, {99, {5, 1234567890123, 6}});
};

// The CPU's kernel and the device's give the same elements, scaled in fp32.
TEST_P(DeviceDropout, EqualsTheCpu) {
  for (const std::int64_t width : {1, 7, 64, 1000, 4099}) {
    const at::Tensor x = at::randn({8, width}).to(GetParam());
    for (const double p : {0.1, 0.5, 0.999}) {
      const at::Tensor expected = apply_keyed_dropout(x, p, 0xfeedull, context_);
      const at::Tensor found = kernels::drop_rows(x, kernels::device_mask(p, 0xfeedull, context_));
      ASSERT_TRUE(at::equal(found, expected)) << "width " << width << ", p " << p;
    }
  }
}

TEST_P(DeviceDropout, ScalesInFp32) {
  const at::Tensor x = at::ones({8, 512}).to(GetParam());
  const at::Tensor y = kernels::drop_rows(x, kernels::device_mask(0.1, 1, context_));
  EXPECT_TRUE(y.max().equal(at::tensor(1.0f / 0.9f).to(GetParam())[0]));
}

TEST_P(DeviceDropout, DropsNothingWithoutAKey) {
  const at::Tensor x = at::randn({8, 12}).to(GetParam());
  const RowContext plain = RowContext::plain(Segments::from_lengths({8}));
  EXPECT_TRUE(at::equal(kernels::drop_rows(x, kernels::device_mask(0.5, 1, plain)), x));
  EXPECT_TRUE(at::equal(kernels::drop_rows(x, kernels::device_mask(0.0, 1, context_)), x));
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceDropout, ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

// 10^8 values: no combination of key and column differs.
TEST(DeviceDropoutMasks, EqualThoseOfTheCpu) {
  const testing::HostKernels kernels;
  constexpr std::int64_t kWidth = 16384, kRows = 512, kRounds = 12;  // 100,663,296
  const at::Tensor ones = at::ones({kRows, kWidth});
  for (std::int64_t round = 0; round < kRounds; ++round) {
    const RowContext context = RowContext::plain(Segments::from_lengths({200, 1, 311}), at::kCPU,
                                                 {static_cast<std::uint64_t>(round), {round, 1 + round, round << 40}});
    const auto linear = static_cast<std::uint64_t>(round) * 0x123456789abcdefull;
    const at::Tensor found = kernels::drop_rows(ones, kernels::device_mask(0.1, linear, context));
    ASSERT_TRUE(at::equal(found, apply_keyed_dropout(ones, 0.1, linear, context))) << "round " << round;
  }
}

}  // namespace
}  // namespace moelora::nn
