#include "nn/stages.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/with_threads.h"

namespace moelora::nn {
namespace {

TEST(Stages, EveryIndexIsComputedOnceAndAfterTheLoopBefore) {
  for (const int threads : {1, 2, 3, 8}) {
    const testing::WithThreads with(threads);
    for (const std::int64_t count : {1, 2, 7, 1000}) {
      for (const std::int64_t least : {1, 16, 1000}) {
        std::vector<std::vector<std::int64_t>> values(6, std::vector<std::int64_t>(count, 0));
        std::iota(values[0].begin(), values[0].end(), 1);
        Stages stages;
        for (std::size_t stage = 1; stage < values.size(); ++stage) {
          // Each value needs all of the stage before, so that any that is missing or counted twice shows.
          stages.add(count, stage == 3 ? count : least, [&, stage](std::int64_t begin, std::int64_t end) {
            for (auto i = begin; i < end; ++i) {
              values[stage][i] += values[stage - 1][count - 1 - i] + (i == 0 ? values[stage - 1][count / 2] : 0);
            }
          });
        }
        stages.run();
        std::vector<std::int64_t> expected = values[0];
        for (std::size_t stage = 1; stage < values.size(); ++stage) {
          std::vector<std::int64_t> next(count);
          for (std::int64_t i = 0; i < count; ++i) {
            next[i] = expected[count - 1 - i] + (i == 0 ? expected[count / 2] : 0);
          }
          expected = next;
        }
        EXPECT_EQ(values.back(), expected) << threads << " threads, " << count << " by " << least;
      }
    }
  }
}

TEST(Stages, ALoopOfNothingIsLeftOutAndNoLoopsAreNone) {
  Stages stages;
  stages.run();
  int runs = 0;
  stages.add(0, 1, [&](std::int64_t, std::int64_t) { ++runs; });
  stages.run();
  EXPECT_EQ(runs, 0);
  stages.add(3, 4, [&](std::int64_t begin, std::int64_t end) { runs += static_cast<int>(end - begin); });
  stages.run();
  stages.run();  // they are gone
  EXPECT_EQ(runs, 3);
}

TEST(Stages, WhatALoopThrowsArrivesAndEndsTheRun) {
  for (const int threads : {1, 2, 4}) {
    const testing::WithThreads with(threads);
    for (const std::int64_t least : {1, 64}) {
      std::atomic<int> after{0};
      Stages stages;
      stages.add(64, least, [](std::int64_t begin, std::int64_t end) {
        if (begin <= 40 && 40 < end) {
          throw std::runtime_error("index 40");
        }
      });
      stages.add(64, least, [&](std::int64_t, std::int64_t) { ++after; });
      EXPECT_THROW(stages.run(), std::runtime_error);
      EXPECT_EQ(after, 0);
      stages.add(64, least, [&](std::int64_t begin, std::int64_t end) { after += static_cast<int>(end - begin); });
      stages.run();
      EXPECT_EQ(after, 64) << "serves again";
    }
  }
}

TEST(Stages, InsideAParallelLoopTheCallingThreadRunsThem) {
  const testing::WithThreads with(2);
  const int levels = omp_get_max_active_levels();
  omp_set_max_active_levels(2);  // else OpenMP itself would see to it
  std::vector<std::int64_t> sums(8, 0);
  std::atomic<int> others{0};
  at::parallel_for(0, 8, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto task = begin; task < end; ++task) {
      const auto caller = std::this_thread::get_id();
      Stages stages;
      for (int loop = 0; loop < 3; ++loop) {
        stages.add(100, 1, [&](std::int64_t from, std::int64_t to) {
          others += std::this_thread::get_id() != caller ? 1 : 0;
          sums[task] += to - from;
        });
      }
      stages.run();
    }
  });
  omp_set_max_active_levels(levels);
  EXPECT_EQ(others, 0);
  EXPECT_EQ(sums, std::vector<std::int64_t>(8, 300));
}

// Threads that wait for all times from none to longer than they spin, and more threads than cores.
TEST(Stages, NobodyIsLeftSleeping) {
  std::atomic<std::int64_t> parts{0};
  const int cores = at::get_num_threads();
  for (const int threads : {2, 2 * cores + 3}) {
    const testing::WithThreads with(threads);
    Stages stages;
    for (int loop = 0; loop < 4000; ++loop) {
      stages.add(2, 1, [&, loop](std::int64_t begin, std::int64_t) {
        ++parts;
        const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(40 * loop);
        while (begin == 1 && std::chrono::steady_clock::now() < until) {
        }
      });
    }
    stages.run();
  }
  EXPECT_EQ(parts, 2 * 2 * 4000);
}

}  // namespace
}  // namespace moelora::nn
