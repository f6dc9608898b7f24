#include "moelora/data/batch.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <numeric>

#include "data/fakes.h"
#include "moelora/io/error.h"

namespace moelora::data {
namespace {

TEST(Pack, PutsSequencesBackToBackWithLabelsWhereTheNextTokenIsOne) {
  Example first;
  first.task = 2;
  first.ids = {10, 11, fakes::kGmask, fakes::kStart, 12, fakes::kEnd};
  first.label_begin = 3;
  Example second;
  second.task = 0;
  second.ids = {20, fakes::kGmask, fakes::kStart, fakes::kEnd};
  second.label_begin = 2;
  const fakes::PositionsOnlyLM model;
  const Batch batch = pack({&first, &second}, {7, 8}, model, at::kCPU);
  EXPECT_TRUE(at::equal(batch.ids, at::tensor({10, 11, 300, 301, 12, 302, 20, 300, 301, 302}, at::kLong)));
  EXPECT_EQ(batch.segments.offsets, (std::vector<std::int64_t>{0, 6, 10}));
  EXPECT_EQ(batch.segments.bidirectional, (std::vector<std::int64_t>{3, 2}));
  EXPECT_TRUE(at::equal(batch.positions, model.positions(batch.segments)));
  EXPECT_TRUE(at::equal(batch.label_rows, at::tensor({2, 3, 4, 7, 8}, at::kLong)));
  EXPECT_TRUE(at::equal(batch.labels, at::tensor({301, 12, 302, 301, 302}, at::kLong)));
  EXPECT_EQ(batch.tasks, (std::vector<std::int64_t>{2, 0}));
  EXPECT_EQ(batch.draws, (std::vector<std::int64_t>{7, 8}));
  EXPECT_EQ(first.label_count() + second.label_count(), batch.labels.numel());
}

TEST(Pack, ACausalModelHasTheSameLabelsAndNoBidirectionalRows) {
  Example example;
  example.ids = {10, 11, 12, 13, 14};
  example.label_begin = 3;
  fakes::PositionsOnlyLM model;
  const Batch of_prefix_lm = pack({&example}, {0}, model, at::kCPU);
  model.causal = true;
  const Batch causal = pack({&example}, {0}, model, at::kCPU);
  EXPECT_EQ(of_prefix_lm.segments.bidirectional, (std::vector<std::int64_t>{3}));
  EXPECT_EQ(causal.segments.bidirectional, (std::vector<std::int64_t>{0}));
  EXPECT_TRUE(at::equal(causal.label_rows, of_prefix_lm.label_rows));
  EXPECT_TRUE(at::equal(causal.labels, at::tensor({13, 14}, at::kLong)));
}

TEST(Pack, RefusesExamplesWithoutASourceOrLabels) {
  const fakes::PositionsOnlyLM model;
  Example example;
  example.ids = {1, 2, 3};
  example.label_begin = 3;
  EXPECT_THROW(pack({&example}, {0}, model, at::kCPU), Error);
  example.label_begin = 0;
  EXPECT_THROW(pack({&example}, {0}, model, at::kCPU), Error);
  example.label_begin = 1;
  EXPECT_THROW(pack({&example}, {}, model, at::kCPU), Error);
  EXPECT_NO_THROW(pack({&example}, {0}, model, at::kCPU));
}

TEST(MicroBatches, HoldEveryExampleOnceWithinTheBudget) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 64; ++i) {
    lengths.push_back(20 + (i * 37) % 200);
  }
  lengths[5] = 900;
  const auto plan = plan_micro_batches(lengths, 512);
  std::vector<int> seen(lengths.size(), 0);
  for (const auto& micro_batch : plan) {
    std::int64_t rows = 0;
    for (const std::int64_t index : micro_batch) {
      ++seen[static_cast<std::size_t>(index)];
      rows += lengths[static_cast<std::size_t>(index)];
    }
    EXPECT_TRUE(std::is_sorted(micro_batch.begin(), micro_batch.end()));
    EXPECT_TRUE(rows <= 512 || micro_batch == std::vector<std::int64_t>{5}) << rows;
  }
  for (const int count : seen) {
    EXPECT_EQ(count, 1);
  }
  const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}) - 900;
  EXPECT_LE(static_cast<std::int64_t>(plan.size()), total / 512 + 3);
  EXPECT_TRUE(plan_micro_batches({}, 512).empty());
  EXPECT_EQ(plan_micro_batches({1, 2, 3}, 6), (std::vector<std::vector<std::int64_t>>{{0, 1, 2}}));
}

}  // namespace
}  // namespace moelora::data
