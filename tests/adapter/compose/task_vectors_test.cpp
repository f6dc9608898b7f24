#include "moelora/adapter/task_vectors.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "moelora/io/error.h"

namespace moelora {
namespace {

at::Tensor two_by_two(std::vector<float> entries) { return at::tensor(entries).view({2, 2}); }

/// Several tasks with linears of different shapes; some tensors are not contiguous.
std::vector<TaskVector> random_task_vectors(std::int64_t tasks, std::uint64_t seed) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  std::vector<TaskVector> all;
  for (std::int64_t task = 0; task < tasks; ++task) {
    all.push_back({at::empty({7, 5}).normal_(0.0, 1.0, generator),
                   at::empty({300, 70}).normal_(0.0, 0.1, generator).t(),
                   at::empty({1, 33}).normal_(0.0, 3.0, generator), at::empty({128, 257}).normal_(0, 1, generator)});
  }
  return all;
}

/// A task's entries, linear by linear, row by row.
std::vector<float> entries_of(const TaskVector& task) {
  std::vector<float> entries;
  for (const auto& update : task) {
    const at::Tensor rows = update.contiguous();
    entries.insert(entries.end(), rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + rows.numel());
  }
  return entries;
}

std::vector<std::vector<float>> entries_of_all(const std::vector<TaskVector>& tasks) {
  std::vector<std::vector<float>> all;
  for (const auto& task : tasks) {
    all.push_back(entries_of(task));
  }
  return all;
}

void expect_entries(const TaskVector& found, const std::vector<double>& expected) {
  const auto entries = entries_of(found);
  ASSERT_EQ(entries.size(), expected.size());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    ASSERT_EQ(entries[i], static_cast<float>(expected[i])) << "entry " << i;
  }
}

/// TIES' last two steps as its paper writes them: first the sign of the sum, then the mean of those that have it.
std::vector<double> elected_means(const std::vector<std::vector<double>>& values, double lambda) {
  std::vector<double> result;
  for (std::size_t i = 0; i < values.front().size(); ++i) {
    double sum = 0;
    for (const auto& task : values) {
      sum += task[i];
    }
    double agreeing = 0;
    int count = 0;
    for (const auto& task : values) {
      if (task[i] * sum > 0) {
        agreeing += task[i];
        ++count;
      }
    }
    result.push_back(count == 0 ? 0.0 : lambda * (agreeing / count));
  }
  return result;
}

std::uint64_t splitmix_step(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

/// Each task's entries after DARE, by the definition in the header.
std::vector<std::vector<double>> dare_entries(const std::vector<TaskVector>& tasks, const DareOptions& options) {
  std::vector<std::vector<double>> all;
  for (std::uint64_t task = 0; task < tasks.size(); ++task) {
    all.emplace_back();
    for (std::uint64_t linear = 0; linear < tasks[task].size(); ++linear) {
      const auto entries = entries_of({tasks[task][linear]});
      for (std::uint64_t i = 0; i < entries.size(); ++i) {
        const auto hash = splitmix_step(splitmix_step(splitmix_step(splitmix_step(options.seed) ^ task) ^ linear) ^ i);
        const double fraction = std::ldexp(static_cast<double>(hash >> 11), -53);
        all.back().push_back(fraction < options.drop ? 0.0 : entries[i] / (1.0 - options.drop));
      }
    }
  }
  return all;
}

template <typename Value>
std::vector<double> scaled_sums(const std::vector<std::vector<Value>>& values, const std::vector<double>& lambdas) {
  std::vector<double> sums(values.front().size(), 0.0);
  for (std::size_t task = 0; task < values.size(); ++task) {
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sums[i] += lambdas[task] * values[task][i];
    }
  }
  return sums;
}

void expect_same(const TaskVector& a, const TaskVector& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(at::equal(a[i], b[i])) << "linear " << i;
  }
}

TEST(TaskArithmetic, IsTheScaledSumByHand) {
  const std::vector<TaskVector> tasks{{two_by_two({1, 2, 3, 4})}, {two_by_two({-5, 6, 0, 8})}};
  // 2 · 1 - 0.5 · -5 = 4.5, 2 · 2 - 0.5 · 6 = 1, 2 · 3 = 6, 2 · 4 - 0.5 · 8 = 4
  expect_same(task_arithmetic(tasks, {2.0, -0.5}), {two_by_two({4.5, 1, 6, 4})});
}

TEST(TaskArithmetic, IsTheScaledSumOfEveryEntry) {
  const auto tasks = random_task_vectors(4, 1);
  const std::vector<double> lambdas{0.3, -1.25, 0.7, 2.0};
  const auto found = task_arithmetic(tasks, lambdas);
  expect_entries(found, scaled_sums(entries_of_all(tasks), lambdas));
  EXPECT_EQ(found[1].sizes(), (std::vector<std::int64_t>{70, 300}));
}

TEST(Ties, TrimsElectsAndAveragesByHand) {
  // Half of 8 entries: the first task keeps 4, 3, -2, -1; the second -3.5, -3, -2, 2.
  const TaskVector first{two_by_two({4, -1, 0.5, 3}), two_by_two({-2, 0.25, 0.125, -0.5})};
  const TaskVector second{two_by_two({-2, -3, 0.5, -3.5}), two_by_two({2, 0.25, 1, -0.5})};
  // 4 - 2 > 0: 4. -1 and -3: -2. Nothing kept: 0. 3 - 3.5 < 0: -3.5. -2 + 2 = 0: no sign, 0. λ = 2.
  expect_same(ties({first, second}, {.density = 0.5, .lambda = 2.0}),
              {two_by_two({8, -4, 0, -7}), two_by_two({0, 0, 0, 0})});
}

TEST(Ties, MagnitudesThatTieAtTheThresholdAllStay) {
  // A quarter of four entries is one: 3, and -3 ties with it.
  expect_same(ties({{two_by_two({3, 1, -3, 2})}}, {.density = 0.25}), {two_by_two({3, 0, -3, 0})});
}

TEST(Ties, AtLeastOneEntryOfATaskStays) {
  expect_same(ties({{two_by_two({1, -4, 3, 2})}}, {.density = 1e-9}), {two_by_two({0, -4, 0, 0})});
}

TEST(Ties, AgreesWithItsPaperOnEveryEntry) {
  const auto tasks = random_task_vectors(5, 2);
  for (const double density : {0.05, 0.2, 0.5, 1.0}) {
    std::vector<std::vector<double>> kept;
    for (const auto& entries : entries_of_all(tasks)) {
      std::vector<float> magnitudes;
      for (const float x : entries) {
        magnitudes.push_back(std::abs(x));
      }
      std::sort(magnitudes.begin(), magnitudes.end(), std::greater<>());
      const auto count = std::llround(density * static_cast<double>(entries.size()));
      const float smallest = magnitudes[static_cast<std::size_t>(count - 1)];
      kept.emplace_back();
      for (const float x : entries) {
        kept.back().push_back(std::abs(x) >= smallest ? x : 0.0);
      }
      EXPECT_NEAR(std::count_if(kept.back().begin(), kept.back().end(), [](double x) { return x != 0; }), count, 2);
    }
    expect_entries(ties(tasks, {.density = density, .lambda = 0.8}), elected_means(kept, 0.8));
  }
}

TEST(Ties, EntriesThatAreNotFiniteAreAnError) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THROW(ties({{two_by_two({1, 2, 3, 4})}, {two_by_two({1, bad, 3, 4})}}), Error);
  }
}

TEST(Dare, DropsAndRescalesByHand) {
  const std::vector<TaskVector> tasks{{two_by_two({1, 2, 3, 4})}, {two_by_two({-5, 6, 7, 8})}};
  // Seed 1 draws .8848 .2486 .5655 .0012 for the first task, .7867 .1793 .3094 .8991 for the second: at p = 0.5 they
  // keep entries 0 and 2, 0 and 3, doubled. 2 - 0.5 · 10 = -3, 0, 6, 0.5 · 16 = 8.
  const DareOptions options{.drop = 0.5, .seed = 1};
  expect_same(dare(tasks, {1.0, 0.5}, options), {two_by_two({-3, 0, 6, 8})});
  // 2 - 10 < 0: the sign is the second task's.
  expect_same(dare_ties(tasks, 0.5, options), {two_by_two({-5, 0, 3, 8})});
}

TEST(Dare, AgreesWithItsDefinitionOnEveryEntry) {
  const auto tasks = random_task_vectors(3, 3);
  const std::vector<double> lambdas{0.4, 1.5, -0.2};
  for (const double drop : {0.3, 0.9}) {
    const DareOptions options{.drop = drop, .seed = 77};
    const auto values = dare_entries(tasks, options);
    expect_entries(dare(tasks, lambdas, options), scaled_sums(values, lambdas));
    expect_entries(dare_ties(tasks, 1.3, options), elected_means(values, 1.3));
  }
}

TEST(Dare, DroppingNothingIsTaskArithmetic) {
  const auto tasks = random_task_vectors(3, 4);
  const std::vector<double> lambdas{0.4, 1.5, -0.2};
  expect_same(dare(tasks, lambdas, {.drop = 0.0}), task_arithmetic(tasks, lambdas));
}

TEST(Dare, DropsItsShareOfEveryTaskIndependently) {
  const TaskVector ones{at::ones({200, 500})};
  const DareOptions options{.drop = 0.9, .seed = 5};
  const auto first = dare({ones, ones}, {1.0, 0.0}, options)[0];
  const auto second = dare({ones, ones}, {0.0, 1.0}, options)[0];
  // 100000 draws: a standard deviation of 0.00095 of the share, of 0.00031 of what both keep.
  EXPECT_NEAR(first.ne(0).to(at::kDouble).mean().item<double>(), 0.1, 0.004);
  EXPECT_NEAR(second.ne(0).to(at::kDouble).mean().item<double>(), 0.1, 0.004);
  EXPECT_NEAR((first * second).ne(0).to(at::kDouble).mean().item<double>(), 0.01, 0.0013);
  EXPECT_NEAR(first.mean().item<double>(), 1.0, 0.04);
  EXPECT_FALSE(at::equal(first, dare({ones, ones}, {1.0, 0.0}, {.drop = 0.9, .seed = 6})[0]));
}

TEST(TaskVectors, ThreadsMakeNoDifference) {
  const auto tasks = random_task_vectors(3, 6);
  const auto compose_all = [&] {
    return std::vector<TaskVector>{task_arithmetic(tasks, {1, 2, 3}), ties(tasks), dare(tasks, {1, 2, 3}),
                                   dare_ties(tasks, 1.0)};
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto alone = compose_all();
  at::set_num_threads(4);
  const auto together = compose_all();
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < alone.size(); ++i) {
    expect_same(alone[i], together[i]);
  }
}

TEST(TaskVectors, TheTasksStayAsTheyAre) {
  const auto tasks = random_task_vectors(2, 7);
  const auto before = entries_of_all(tasks);
  ties(tasks);
  dare(tasks, {1, 1});
  EXPECT_EQ(entries_of_all(tasks), before);
}

TEST(TaskVectors, MissingAndMisshapenOnesAreErrors) {
  const TaskVector good{at::ones({2, 3})};
  const std::vector<std::vector<TaskVector>> bad{{},
                                                 {{}},
                                                 {good, {}},
                                                 {good, {at::ones({3, 2})}},
                                                 {good, {at::ones({2, 3}), at::ones({2, 3})}},
                                                 {good, {at::ones({6})}},
                                                 {good, {at::ones({2, 3}, at::kDouble)}},
                                                 {good, {at::Tensor()}}};
  for (const auto& tasks : bad) {
    EXPECT_THROW(task_arithmetic(tasks, std::vector<double>(tasks.size(), 1.0)), Error);
    EXPECT_THROW(ties(tasks), Error);
    EXPECT_THROW(dare(tasks, std::vector<double>(tasks.size(), 1.0)), Error);
    EXPECT_THROW(dare_ties(tasks, 1.0), Error);
  }
}

TEST(TaskVectors, OptionsOutOfRangeAreErrors) {
  const std::vector<TaskVector> tasks(2, {at::ones({2, 3})});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double density : {0.0, -0.5, 1.01, nan}) {
    EXPECT_THROW(ties(tasks, {.density = density}), Error) << density;
  }
  for (const double drop : {1.0, -0.1, 2.0, nan}) {
    EXPECT_THROW(dare(tasks, {1, 1}, {.drop = drop}), Error) << drop;
    EXPECT_THROW(dare_ties(tasks, 1.0, {.drop = drop}), Error) << drop;
  }
  EXPECT_THROW(task_arithmetic(tasks, {1.0}), Error);
  EXPECT_THROW(dare(tasks, {1.0, 1.0, 1.0}), Error);
}

TEST(FactorsOfDense, MultiplyToTheVeryUpdateAtTheSmallestRank) {
  const auto tasks = random_task_vectors(1, 8);
  for (const auto& update : {two_by_two({1, 2, 3, 4}), tasks[0][0], tasks[0][1], tasks[0][2], tasks[0][3]}) {
    const auto factors = factors_of_dense(update);
    EXPECT_EQ(factors.A.size(0), std::min(update.size(0), update.size(1)));
    EXPECT_TRUE(at::equal(at::mm(factors.B, factors.A), update)) << update.sizes();
  }
  EXPECT_THROW(factors_of_dense(at::ones({4})), Error);
  EXPECT_THROW(factors_of_dense(at::ones({2, 2}, at::kHalf)), Error);
  EXPECT_THROW(factors_of_dense(at::Tensor()), Error);
}

}  // namespace
}  // namespace moelora
