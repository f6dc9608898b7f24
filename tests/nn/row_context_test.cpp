#include "moelora/nn/row_context.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::nn {
namespace {

TEST(RowContext, HoldsTheDrawOfEachRow) {
  const RowContext context = RowContext::plain(Segments::from_lengths({2, 1}), at::kCPU, {7, {40, 41}});
  EXPECT_TRUE(at::equal(context.draw_of_row, at::tensor({40, 40, 41}, at::kLong)));
  EXPECT_TRUE(at::equal(context.select(at::tensor({2, 0}, at::kLong)).draw_of_row, at::tensor({41, 40}, at::kLong)));
  EXPECT_FALSE(RowContext::plain(Segments::from_lengths({2, 1})).draw_of_row.defined());
  EXPECT_THROW(RowContext::plain(Segments::from_lengths({2, 1}), at::kCPU, {7, {40}}), Error);
}

// Kernels of variable length take these; a CPU reads the segments themselves.
TEST(RowContext, HasTablesOfAttentionOnADevice) {
  const RowContext context = RowContext::plain(Segments::from_lengths({5, 3, 2}, {2, 3, 0}), at::kMeta);
  ASSERT_NE(context.attention, nullptr);
  EXPECT_EQ(context.attention->parts.sizes(), at::IntArrayRef({7}));
  EXPECT_EQ(context.attention->segments.sizes(), at::IntArrayRef({4}));
  EXPECT_EQ(context.attention->causal_rows.sizes(), at::IntArrayRef({5}));
  EXPECT_EQ(context.attention->causal_offsets.sizes(), at::IntArrayRef({4}));
  EXPECT_EQ(context.attention->longest_part, 3);
  EXPECT_EQ(context.attention->longest_segment, 5);
  EXPECT_EQ(context.attention->longest_causal, 3);
  EXPECT_EQ(RowContext::plain(Segments::from_lengths({1})).attention, nullptr);
}

TEST(RowContext, NextRowsKeepTheirExpertWeights) {
  RowContext prompts = RowContext::plain(Segments::from_lengths({3, 2, 4}, {2, 1, 4}));
  prompts.expert_weights = at::rand({2, 3, 5});
  prompts.dropout = {1, {7, 8, 9}};
  const RowContext all = prompts.next_rows({0, 1, 2});
  EXPECT_EQ(all.rows(), 3);
  EXPECT_EQ(all.segments.bidirectional, (std::vector<std::int64_t>{0, 0, 0}));
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

TEST(RowContext, OfASequenceLikeASegmentHasThatSegmentsExpertsAndPrefix) {
  RowContext prompts = RowContext::plain(Segments::from_lengths({3, 2}, {2, 1}));
  prompts.expert_weights = at::rand({1, 2, 5});
  prompts.dropout = {1, {7, 8}};
  prompts.prefix = {{at::rand({2, 3, 1, 4}), at::rand({2, 3, 1, 4})}, {at::rand({3, 1, 4}), at::rand({3, 1, 4})}};
  const RowContext longer = prompts.like_segment(1, 6, 1);
  EXPECT_EQ(longer.rows(), 6);
  EXPECT_EQ(longer.segments.bidirectional, (std::vector<std::int64_t>{1}));
  EXPECT_TRUE(at::equal(longer.expert_weights, prompts.expert_weights.narrow(1, 1, 1)));
  EXPECT_FALSE(longer.dropout.active());
  ASSERT_EQ(longer.prefix.size(), 2u);
  EXPECT_TRUE(at::equal(longer.prefix[0].key, prompts.prefix[0].key.narrow(0, 1, 1)));
  EXPECT_TRUE(at::equal(longer.prefix[0].value, prompts.prefix[0].value.narrow(0, 1, 1)));
  EXPECT_TRUE(longer.prefix[1].key.is_same(prompts.prefix[1].key));
}

TEST(RowContext, PooledHasOneRowOfEachSegmentAndAllElseOfTheSegments) {
  RowContext tokens = RowContext::plain(Segments::from_lengths({3, 1, 4}, {2, 1, 4}));
  tokens.expert_weights = at::rand({1, 3, 5});
  tokens.dropout = DropoutKey::for_step(4, 2, 3);
  tokens.sample_weights = at::rand({3});
  tokens.prefix.resize(2);
  auto origin = std::make_shared<ContextOrigin>();
  origin->adapter = std::make_shared<AdapterIdentity>();
  tokens.origin = origin;
  const RowContext pooled = tokens.pooled();
  EXPECT_EQ(pooled.rows(), 3);
  EXPECT_EQ(pooled.segments.count(), 3);
  EXPECT_TRUE(at::equal(pooled.segment_of_row, at::arange(3)));
  EXPECT_TRUE(at::equal(pooled.row_in_segment, at::zeros({3}, at::kLong)));
  EXPECT_TRUE(pooled.expert_weights.is_same(tokens.expert_weights));
  EXPECT_TRUE(pooled.sample_weights.is_same(tokens.sample_weights));
  EXPECT_EQ(pooled.dropout.draws, (std::vector<std::int64_t>{6, 7, 8}));
  EXPECT_EQ(pooled.origin, tokens.origin);
  EXPECT_TRUE(pooled.prefix.empty());
}

TEST(RowContext, WhatIsMadeOfAContextHasItsOrigin) {
  RowContext context = RowContext::plain(Segments::from_lengths({2, 2}, {2, 2}));
  EXPECT_EQ(context.origin, nullptr);
  context.origin = std::make_shared<ContextOrigin>();
  EXPECT_EQ(context.select(at::arange(2)).origin, context.origin);
  EXPECT_EQ(context.next_rows({1}).origin, context.origin);
  EXPECT_EQ(context.like_segment(1, 3, 0).origin, context.origin);
}

TEST(DropoutKey, OfAStepCountsTheSamplesOfAllSteps) {
  EXPECT_EQ(DropoutKey::for_step(9, 5, 4).draws, (std::vector<std::int64_t>{20, 21, 22, 23}));
  EXPECT_EQ(DropoutKey::for_step(9, 5, 4).seed, 9u);
  EXPECT_THROW(DropoutKey::for_step(9, -1, 4), Error);
  EXPECT_THROW(DropoutKey::for_step(9, 0, 0), Error);
}

}  // namespace
}  // namespace moelora::nn
