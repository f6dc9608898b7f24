#include "moelora/nn/low_rank.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace moelora::nn {
namespace {

TEST(LowRankForm, TheUpdateHasEverythingInsideB) {
  at::manual_seed(1);
  const LowRankForm form{at::randn({4, 6}), at::randn({5, 4}), at::tensor({0.5f, 0.0f, -1.0f, 2.0f}), 3.0};
  const at::Tensor expected = 3.0 * at::mm(form.B, at::mm(at::diag(form.weights), form.A));
  EXPECT_TRUE(at::allclose(form.update().dense(), expected, 1e-5, 1e-6));
  EXPECT_TRUE(at::equal(form.weighted_B(), form.B * form.weights));
}

TEST(LowRankForm, WithoutWeightsTheyAreAllOne) {
  const LowRankForm form{at::randn({4, 6}), at::randn({5, 4}), {}, 0.25};
  EXPECT_TRUE(at::equal(form.update().B, form.B * 0.25));
  EXPECT_TRUE(at::equal(form.weighted_B(), form.B));
}

TEST(LowRank, IsAddedInFloatWhateverTheWeightsDtype) {
  const LowRank update{at::randn({2, 3}), at::randn({4, 2})};
  const at::Tensor weight = at::randn({4, 3}).to(at::kHalf);
  EXPECT_EQ(update.added_to(weight).scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(update.added_to(weight), weight.to(at::kFloat) + update.dense(), 1e-5, 1e-6));
  EXPECT_EQ(update.rank(), 2);
  EXPECT_EQ(update.numel(), 2 * 3 + 4 * 2);
}

TEST(LowRank, IsZeroIfAFactorIs) {
  EXPECT_TRUE((LowRank{at::randn({2, 3}), at::zeros({4, 2})}).is_zero());
  EXPECT_TRUE((LowRank{at::zeros({2, 3}), at::randn({4, 2})}).is_zero());
  EXPECT_FALSE((LowRank{at::ones({2, 3}), at::ones({4, 2})}).is_zero());
}

}  // namespace
}  // namespace moelora::nn
