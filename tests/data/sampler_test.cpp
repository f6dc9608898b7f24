#include "moelora/data/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

/// 25 samples of task 0, 10 of task 1, 3 of task 2, interleaved.
std::vector<std::int64_t> toy_tasks() {
  std::vector<std::int64_t> tasks;
  for (int i = 0; i < 25; ++i) {
    tasks.push_back(0);
    if (i < 10) tasks.push_back(1);
    if (i < 3) tasks.push_back(2);
  }
  return tasks;
}

TEST(Sampler, RandomBatchesShowEverySampleOncePerEpoch) {
  Sampler sampler(toy_tasks(), 5, Batching::random, 42);
  std::vector<std::int64_t> drawn;
  while (drawn.size() < 38u * 5u) {
    const auto draw = sampler.next();
    ASSERT_EQ(draw.samples.size(), 5u);
    drawn.insert(drawn.end(), draw.samples.begin(), draw.samples.end());
  }
  std::vector<std::vector<std::int64_t>> epochs;
  for (int epoch = 0; epoch < 5; ++epoch) {
    epochs.emplace_back(drawn.begin() + epoch * 38, drawn.begin() + (epoch + 1) * 38);
    EXPECT_EQ(std::set<std::int64_t>(epochs.back().begin(), epochs.back().end()).size(), 38u);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_DOUBLE_EQ(sampler.epoch(), 5.0);
}

TEST(Sampler, DrawIndicesCountAllSamplesOfARun) {
  Sampler sampler(toy_tasks(), 4, Batching::random, 1);
  sampler.next();
  EXPECT_EQ(sampler.next().draws, (std::vector<std::int64_t>{4, 5, 6, 7}));
}

TEST(Sampler, BatchesLargerThanTheDataRepeatIt) {
  Sampler sampler({0, 0, 0}, 7, Batching::random, 1);
  const auto draw = sampler.next();
  std::map<std::int64_t, int> counts;
  for (const std::int64_t sample : draw.samples) {
    ++counts[sample];
  }
  EXPECT_EQ(counts.size(), 3u);
  for (const auto& [sample, count] : counts) {
    EXPECT_GE(count, 2);
  }
}

TEST(Sampler, ByTaskBatchesHoldOneTaskAndShowSamplesEquallyOften) {
  const std::vector<std::int64_t> tasks = toy_tasks();
  Sampler sampler(tasks, 4, Batching::by_task, 3);
  std::vector<int> seen(tasks.size(), 0);
  std::vector<std::int64_t> order;
  for (int step = 0; step < 38; ++step) {  // 4 epochs: 25 + 10 + 3 batches
    const auto draw = sampler.next();
    std::set<std::int64_t> tasks_here;
    for (const std::int64_t sample : draw.samples) {
      tasks_here.insert(tasks[static_cast<std::size_t>(sample)]);
      ++seen[static_cast<std::size_t>(sample)];
    }
    EXPECT_EQ(tasks_here.size(), 1u);
    order.push_back(*tasks_here.begin());
  }
  for (const int count : seen) {
    EXPECT_EQ(count, 4);
  }
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(Sampler, ContinuesFromAnyStepAsIfNeverStopped) {
  for (const Batching batching : {Batching::random, Batching::by_task}) {
    Sampler undisturbed(toy_tasks(), 6, batching, 9);
    std::vector<Sampler::Draw> draws;
    for (int step = 0; step < 60; ++step) {
      draws.push_back(undisturbed.next());
    }
    for (int step = 0; step < 60; ++step) {
      Sampler resumed(toy_tasks(), 6, batching, 9);
      resumed.restore({9, step});
      for (int next = step; next < std::min(step + 8, 60); ++next) {
        const auto draw = resumed.next();
        EXPECT_EQ(draw.samples, draws[static_cast<std::size_t>(next)].samples) << step << " " << next;
        EXPECT_EQ(draw.draws, draws[static_cast<std::size_t>(next)].draws);
      }
    }
    undisturbed.restore({9, 0});
    EXPECT_EQ(undisturbed.next().samples, draws[0].samples);
    EXPECT_EQ(undisturbed.state().step, 1);
  }
}

TEST(Sampler, AnotherSeedDrawsOtherSamplesAndIsRefusedOnRestore) {
  Sampler one(toy_tasks(), 6, Batching::random, 1);
  Sampler two(toy_tasks(), 6, Batching::random, 2);
  EXPECT_NE(one.next().samples, two.next().samples);
  EXPECT_THROW(one.restore({2, 5}), Error);
  EXPECT_THROW(Sampler({}, 4, Batching::random, 1), Error);
  EXPECT_THROW(Sampler({0}, 0, Batching::random, 1), Error);
}

// The order is part of what a seed means: a change would break the resumption of runs begun before it.
TEST(Sampler, OrderOfASeedStaysTheSame) {
  Sampler sampler({0, 0, 0, 0, 0, 0, 0, 0}, 8, Batching::random, 42);
  EXPECT_EQ(sampler.next().samples, (std::vector<std::int64_t>{5, 7, 4, 0, 1, 6, 2, 3}));
}

/// How often each of `samples` samples comes in the next `draws` draws.
std::vector<std::int64_t> counts_of(Sampler& sampler, std::int64_t samples, std::int64_t draws) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(samples));
  for (std::int64_t drawn = 0; drawn < draws;) {
    for (const std::int64_t sample : sampler.next().samples) {
      ++counts[static_cast<std::size_t>(sample)];
      ++drawn;
    }
  }
  return counts;
}

TEST(Sampler, WeightsOfOneChangeNothing) {
  for (const Batching batching : {Batching::random, Batching::by_task}) {
    Sampler plain(toy_tasks(), 4, batching, 42);
    Sampler weighted(toy_tasks(), 4, batching, 42, std::vector<double>(38, 1.0));
    for (int step = 0; step < 60; ++step) {
      ASSERT_EQ(plain.next().samples, weighted.next().samples) << step;
    }
    EXPECT_DOUBLE_EQ(plain.epoch(), weighted.epoch());
  }
}

TEST(Sampler, ASampleComesAsOftenAsItsWeightSays) {
  // Ten samples of weight 2, twenty of 0.5 and ten of 1: passes of 40 draws on average, the halves exactly by turns.
  std::vector<double> weights(10, 2.0);
  weights.insert(weights.end(), 20, 0.5);
  weights.insert(weights.end(), 10, 1.0);
  Sampler sampler(std::vector<std::int64_t>(40, 0), 8, Batching::random, 7, weights);
  const auto first = counts_of(sampler, 40, 40);
  const auto second = counts_of(sampler, 40, 40);
  EXPECT_DOUBLE_EQ(sampler.epoch(), 2.0);
  for (std::size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(first[i] + second[i], static_cast<std::int64_t>(2.0 * weights[i])) << i;
    if (i < 10 || i >= 30) {
      EXPECT_EQ(first[i], static_cast<std::int64_t>(weights[i])) << i;
    }
  }
  EXPECT_EQ(std::count(first.begin() + 10, first.begin() + 30, 1), 10);
}

TEST(Sampler, OddWeightsComeOutOverManyPasses) {
  std::vector<double> weights(6, 0.3);
  weights.insert(weights.end(), 4, 1.7);
  Sampler sampler(std::vector<std::int64_t>(10, 0), 1, Batching::random, 3, weights);
  const auto counts = counts_of(sampler, 10, 860);  // a hundred passes of 6 · 0.3 + 4 · 1.7
  for (std::size_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(static_cast<double>(counts[i]), 100.0 * weights[i], 2.0) << i;
  }
}

TEST(Sampler, WeightsHoldWithinATaskAndBetweenTasks) {
  // Task 0: eight samples of weight 1; task 1: four of weight 3.
  std::vector<std::int64_t> tasks(8, 0);
  tasks.insert(tasks.end(), 4, 1);
  std::vector<double> weights(8, 1.0);
  weights.insert(weights.end(), 4, 3.0);
  Sampler sampler(tasks, 4, Batching::by_task, 5, weights);
  const auto counts = counts_of(sampler, 12, 200);  // ten epochs of 2 + 3 batches
  for (std::size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(counts[i], i < 8 ? 10 : 30) << i;
  }
}

TEST(Sampler, WeightedDrawsGoOnFromAnyStep) {
  std::vector<double> weights;
  for (std::size_t i = 0; i < 38; ++i) {
    weights.push_back(i % 3 == 0 ? 0.25 : i % 3 == 1 ? 1.0 : 2.5);
  }
  for (const Batching batching : {Batching::random, Batching::by_task}) {
    Sampler whole(toy_tasks(), 4, batching, 11, weights);
    std::vector<std::vector<std::int64_t>> steps;
    for (int step = 0; step < 80; ++step) {
      steps.push_back(whole.next().samples);
    }
    for (const std::int64_t begin : {79, 1, 30, 0}) {
      Sampler resumed(toy_tasks(), 4, batching, 11, weights);
      resumed.restore({11, begin});
      EXPECT_EQ(resumed.next().samples, steps[static_cast<std::size_t>(begin)]) << begin;
    }
  }
}

TEST(Sampler, WeightsOutOfRangeAreErrors) {
  for (const double weight : {0.0, -1.0, 1e-4, 1e4, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(Sampler({0, 0}, 1, Batching::random, 1, {1.0, weight}), Error) << weight;
  }
  EXPECT_THROW(Sampler({0, 0}, 1, Batching::random, 1, {2.0}), Error);
}

}  // namespace
}  // namespace moelora::data
