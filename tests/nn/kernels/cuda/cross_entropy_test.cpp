#include "nn/kernels/cuda/cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "nn/kernels/cuda/rounding.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

class DeviceCrossEntropy : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  const testing::HostKernels kernels_;
};

TEST_P(DeviceCrossEntropy, GivesLossesAndTurnsLogitsIntoTheirGradient) {
  for (const std::int64_t width : {1, 3, 500, 512, 2055, 9000}) {
    const at::Tensor logits = (3.0 * at::randn({4, width})).to(GetParam());
    const at::Tensor labels = at::tensor({std::int64_t{0}, width - 1, width / 2, width / 3}, at::kLong);
    const at::Tensor exact = logits.to(at::kDouble);
    const at::Tensor expected = at::cross_entropy_loss(exact, labels, {}, at::Reduction::None);
    const at::Tensor losses = at::empty({4}, at::kFloat);
    const at::Tensor before = logits.clone();
    kernels::cross_entropy_(logits, labels, losses, 0.0);
    EXPECT_TRUE(at::equal(logits, before));
    EXPECT_TRUE(testing::rounds_to(losses, expected)) << width;
    kernels::cross_entropy_(logits, labels, losses, 1.0);
    EXPECT_TRUE(testing::rounds_to(losses, expected)) << width;
    at::Tensor gradient = at::softmax(exact, 1);
    gradient.scatter_add_(1, labels.unsqueeze(1), at::full({4, 1}, -1.0, at::kDouble));
    EXPECT_TRUE(testing::rounds_to(logits, gradient)) << width;
  }
}

TEST_P(DeviceCrossEntropy, SurvivesLargeLogits) {
  const at::Tensor logits = at::tensor({60000.0f, -60000.0f, 59000.0f}).view({1, 3}).to(GetParam());
  const at::Tensor losses = at::empty({1}, at::kFloat);
  const at::Tensor exact = logits.to(at::kDouble);
  kernels::cross_entropy_(logits, at::tensor({2}, at::kLong), losses, 1.0);
  const at::Tensor expected = at::cross_entropy_loss(exact, at::tensor({2}, at::kLong), {}, at::Reduction::None);
  EXPECT_TRUE(testing::rounds_to(losses, expected));
  EXPECT_TRUE(at::equal(logits.to(at::kFloat), at::tensor({1.0f, 0.0f, -1.0f}).view({1, 3})));
}

TEST_P(DeviceCrossEntropy, SaysWhereALogitIsNotANumber) {
  const at::Tensor logits = at::zeros({2, 700}).to(GetParam());
  logits[0][600] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor losses = at::empty({2}, at::kFloat);
  kernels::cross_entropy_(logits, at::tensor({1, 1}, at::kLong), losses, 0.0);
  EXPECT_TRUE(losses[0].isnan().item<bool>());
  EXPECT_FALSE(losses[1].isnan().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Elements, DeviceCrossEntropy, testing::kernel_types(), testing::type_name);

// A uniform row of a large vocabulary: each probability is 7.7e-6, of which fp16 has only a few bits.
TEST(DeviceCrossEntropyInHalf, KeepsSmallProbabilitiesWhereScaled) {
  const testing::HostKernels kernels;
  const std::int64_t width = 130528;
  const at::Tensor logits = at::zeros({1, width}, at::kHalf);
  const at::Tensor losses = at::empty({1}, at::kFloat);
  kernels::cross_entropy_(logits, at::tensor({5}, at::kLong), losses, 1024.0);
  const double expected = 1024.0 / static_cast<double>(width);
  EXPECT_NEAR(logits[0][7].item<double>(), expected, 1e-3 * expected);
  EXPECT_EQ(logits[0][5].item<double>(), -1024.0);
}

}  // namespace
}  // namespace moelora::nn
