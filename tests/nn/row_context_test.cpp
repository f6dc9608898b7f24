#include "moelora/nn/row_context.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace moelora::nn {
namespace {

TEST(RowContext, NextRowsKeepTheirExpertWeights) {
  RowContext prompts = RowContext::plain(Segments::from_lengths({3, 2, 4}, {2, 1, 4}));
  prompts.expert_weights = at::rand({2, 3, 5});
  prompts.dropout = {1, {7, 8, 9}};
  const RowContext all = prompts.next_rows({0, 1, 2});
  EXPECT_EQ(all.rows(), 3);
  EXPECT_EQ(all.segments.context, (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_TRUE(at::equal(all.segment_of_row, at::arange(3)));
  EXPECT_TRUE(at::equal(all.expert_weights, prompts.expert_weights));
  EXPECT_FALSE(all.dropout.active());
  const RowContext some = all.next_rows({2, 0});
  EXPECT_EQ(some.rows(), 2);
  EXPECT_TRUE(at::equal(some.expert_weights.select(1, 0), prompts.expert_weights.select(1, 2)));
  EXPECT_TRUE(at::equal(some.expert_weights.select(1, 1), prompts.expert_weights.select(1, 0)));
  EXPECT_TRUE(at::equal(all.next_rows({1, 0, 2}).expert_weights.select(1, 0), prompts.expert_weights.select(1, 1)));
  EXPECT_FALSE(RowContext::plain(Segments::from_lengths({3}, {2})).next_rows({0}).expert_weights.defined());
}

}  // namespace
}  // namespace moelora::nn
