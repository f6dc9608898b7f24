#include "moelora/adapter/lorahub.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "moelora/io/error.h"

namespace moelora {
namespace {

using Weights = std::vector<double>;

at::Tensor matrix_of(std::vector<float> entries, std::int64_t rows) { return at::tensor(entries).view({rows, -1}); }

std::vector<nn::LowRank> random_loras(const std::vector<std::int64_t>& ranks, std::int64_t d_out, std::int64_t d_in) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(d_out * 1000 + d_in));
  std::vector<nn::LowRank> loras;
  for (const auto r : ranks) {
    loras.push_back(
        {at::empty({r, d_in}).normal_(0.0, 1.0, generator), at::empty({d_out, r}).normal_(0.0, 1.0, generator)});
  }
  return loras;
}

at::Tensor product(const nn::LowRank& update) { return at::mm(update.B.to(at::kDouble), update.A.to(at::kDouble)); }

TEST(LoraHub, BothCompositionsByHand) {
  const std::vector<nn::LowRank> loras{{matrix_of({1, 2}, 1), matrix_of({3, 4}, 2)},
                                       {matrix_of({5, -1}, 1), matrix_of({1, 2}, 2)}};
  const Weights weights{0.5, 2.0};
  const auto factors = compose_factors(loras, weights);
  EXPECT_TRUE(at::equal(factors.A, matrix_of({10.5, -1}, 1)));  // 0.5 (1, 2) + 2 (5, -1)
  EXPECT_TRUE(at::equal(factors.B, matrix_of({3.5, 6}, 2)));    // 0.5 (3, 4) + 2 (1, 2)
  const auto updates = compose_updates(loras, weights);
  EXPECT_EQ(updates.A.size(0), 2);
  // 0.5 (3 6; 4 8) + 2 (5 -1; 10 -2)
  EXPECT_TRUE(at::equal(at::mm(updates.B, updates.A), matrix_of({11.5, 1, 22, 0}, 2)));
}

TEST(LoraHub, FactorsAreTheWeightedSumsOfEveryEntry) {
  const auto loras = random_loras({4, 4, 4, 4, 4}, 33, 70);
  const Weights weights{0.3, -1.25, 0.0, 0.7, 1.5};
  const auto found = compose_factors(loras, weights);
  for (const bool left : {false, true}) {
    const at::Tensor sum = left ? found.B : found.A;
    for (std::int64_t row = 0; row < sum.size(0); ++row) {
      for (std::int64_t column = 0; column < sum.size(1); ++column) {
        double expected = 0;
        for (std::size_t i = 0; i < loras.size(); ++i) {
          expected += weights[i] * (left ? loras[i].B : loras[i].A)[row][column].item<float>();
        }
        ASSERT_NEAR(sum[row][column].item<float>(), expected, 1e-6 * std::abs(expected));
      }
    }
  }
}

TEST(LoraHub, UpdatesOfDifferentRanksAreStacked) {
  const auto loras = random_loras({4, 1, 8, 3}, 33, 70);
  const Weights weights{0.3, -2.0, 1.25, 0.0};
  const auto found = compose_updates(loras, weights);
  EXPECT_EQ(found.A.sizes(), (std::vector<std::int64_t>{16, 70}));
  EXPECT_EQ(found.B.sizes(), (std::vector<std::int64_t>{33, 16}));
  at::Tensor expected = at::zeros({33, 70}, at::kDouble);
  at::Tensor magnitude = at::zeros({33, 70}, at::kDouble);
  for (std::size_t i = 0; i < loras.size(); ++i) {
    expected += weights[i] * product(loras[i]);
    magnitude += std::abs(weights[i]) * product({loras[i].A.abs(), loras[i].B.abs()});
  }
  EXPECT_TRUE(((product(found) - expected).abs() <= 1e-6 * magnitude).all().item<bool>());
}

TEST(LoraHub, OneLoraWithWeightOneStaysAsItIs) {
  const auto loras = random_loras({4}, 6, 9);
  for (const auto& found : {compose_factors(loras, {1.0}), compose_updates(loras, {1.0})}) {
    EXPECT_TRUE(at::equal(found.A, loras[0].A));
    EXPECT_TRUE(at::equal(found.B, loras[0].B));
  }
}

TEST(LoraHub, LorasThatDontFitAreErrors) {
  const auto loras = random_loras({4, 4}, 6, 9);
  for (const auto& compose : {compose_factors, compose_updates}) {
    EXPECT_THROW(compose({}, {}), Error);
    EXPECT_THROW(compose(loras, {1.0}), Error);
    EXPECT_THROW(compose({loras[0], random_loras({4}, 6, 8)[0]}, {1.0, 1.0}), Error);
    EXPECT_THROW(compose({loras[0], random_loras({4}, 7, 9)[0]}, {1.0, 1.0}), Error);
    EXPECT_THROW(compose({loras[0], {loras[1].A, loras[1].B.slice(1, 0, 3)}}, {1.0, 1.0}), Error);
    EXPECT_THROW(compose({loras[0], {loras[1].A, at::Tensor()}}, {1.0, 1.0}), Error);
    EXPECT_THROW(compose({loras[0], {loras[1].A, loras[1].B.to(at::kHalf)}}, {1.0, 1.0}), Error);
  }
  EXPECT_THROW(compose_factors(random_loras({4, 3}, 6, 9), {1.0, 1.0}), Error);
}

/// Σ c_i (w_i - t_i)², which with l1 · mean |w| has its minimum at t_i, moved by l1 / (2 K c_i) towards 0.
struct Bowl {
  Weights target{0.8, -0.4, 0.0, 1.2, 0.3, 0.0, -0.9, 0.6};
  Weights curvature{1.0, 0.5, 2.0, 1.0, 0.7, 1.0, 0.4, 1.5};

  double operator()(const Weights& weights) const {
    double sum = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      sum += curvature[i] * (weights[i] - target[i]) * (weights[i] - target[i]);
    }
    return sum;
  }
  Weights minimum(double l1) const {
    Weights weights;
    for (std::size_t i = 0; i < target.size(); ++i) {
      const double shift = l1 / (2.0 * static_cast<double>(target.size()) * curvature[i]);
      weights.push_back(std::copysign(std::max(0.0, std::abs(target[i]) - shift), target[i]));
    }
    return weights;
  }
};

double penalised(double loss, const Weights& weights, double l1) {
  double magnitude = 0;
  for (const double weight : weights) {
    magnitude += std::abs(weight);
  }
  return loss + l1 * magnitude / static_cast<double>(weights.size());
}

/// A build without NLopt has no search.
class LoraHubSearch : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!lorahub_missing().empty()) {
      EXPECT_NE(lorahub_missing().find("-DMOELORA_LORAHUB=ON"), std::string::npos);
      EXPECT_THROW(search_weights(8, Bowl()), Error);
      GTEST_SKIP() << lorahub_missing();
    }
  }
};

TEST_F(LoraHubSearch, FortyEvaluationsFindMostOfTheDecreaseOfABowl) {
  const Bowl bowl;
  const Weights best = bowl.minimum(0.05);
  const double at_zero = bowl(Weights(8, 0.0));
  const double reachable = at_zero - penalised(bowl(best), best, 0.05);
  for (const std::uint64_t seed : {0, 1, 2, 3, 4}) {
    const auto found = search_weights(8, bowl, {.seed = seed});
    EXPECT_GE(at_zero - found.objective, 0.95 * reachable) << "seed " << seed;
  }
}

TEST_F(LoraHubSearch, ManyEvaluationsFindTheMinimumWithThePenalty) {
  const Bowl bowl;
  for (const double l1 : {0.0, 0.05, 2.0}) {
    const auto found = search_weights(8, bowl, {.l1 = l1, .evaluations = 3000});
    const Weights best = bowl.minimum(l1);
    EXPECT_LT(found.evaluations, 3000);  // The weights stand still before.
    for (std::size_t i = 0; i < best.size(); ++i) {
      EXPECT_NEAR(found.weights[i], best[i], 2e-3) << "weight " << i << ", l1 " << l1;
    }
  }
}

TEST_F(LoraHubSearch, ReturnsTheBestOfItsCallsWhichStartAtZeroAndStayInBounds) {
  Bowl bowl;
  bowl.target = {3.0, -3.0, 0.1, 2.0, 0.3, 0.0, -0.9, 0.6};
  std::vector<Weights> calls;
  const auto loss = [&](const Weights& weights) {
    calls.push_back(weights);
    return bowl(weights);
  };
  const auto found = search_weights(8, loss, {.evaluations = 200});
  ASSERT_EQ(static_cast<std::int64_t>(calls.size()), found.evaluations);
  EXPECT_LE(calls.size(), 200u);
  EXPECT_EQ(calls.front(), Weights(8, 0.0));
  double least = std::numeric_limits<double>::infinity();
  for (const auto& weights : calls) {
    least = std::min(least, penalised(bowl(weights), weights, 0.05));
    for (const double weight : weights) {
      EXPECT_LE(std::abs(weight), 1.5);
    }
  }
  EXPECT_EQ(found.objective, least);
  EXPECT_EQ(found.loss, bowl(found.weights));
  EXPECT_EQ(penalised(found.loss, found.weights, 0.05), least);
  EXPECT_NEAR(found.weights[0], 1.5, 1e-3);
  EXPECT_NEAR(found.weights[1], -1.5, 1e-3);
}

TEST_F(LoraHubSearch, AsManyCallsAsAllowedAndNoMore) {
  for (const std::int64_t allowed : {1, 2, 5, 17, 40, 600}) {
    std::int64_t calls = 0;
    const auto loss = [&](const Weights& weights) {
      ++calls;
      return Bowl()(weights);
    };
    const auto found = search_weights(8, loss, {.evaluations = allowed});
    EXPECT_EQ(calls, allowed);
    EXPECT_EQ(found.evaluations, allowed);
    if (allowed == 1) {
      EXPECT_EQ(found.weights, Weights(8, 0.0));
    }
  }
}

TEST_F(LoraHubSearch, TheSameSeedMakesTheSameCallsAnotherOneOthers) {
  const auto calls_of = [](std::uint64_t seed) {
    std::vector<Weights> calls;
    search_weights(8, [&](const Weights& weights) { return calls.push_back(weights), Bowl()(weights); },
                   {.seed = seed});
    return calls;
  };
  EXPECT_EQ(calls_of(3), calls_of(3));
  EXPECT_NE(calls_of(3), calls_of(4));
}

TEST_F(LoraHubSearch, OneWeightIsEnough) {
  const auto found = search_weights(1, [](const Weights& weights) { return std::pow(weights[0] - 0.7, 2); });
  EXPECT_NEAR(found.weights.at(0), 0.7 - 0.025, 5e-3);
}

TEST_F(LoraHubSearch, LossesThatAreNotFiniteAreAvoided) {
  const Bowl bowl;
  for (const double bad :
       {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    const auto loss = [&](const Weights& weights) { return weights[3] > 0.5 ? bad : bowl(weights); };
    const auto found = search_weights(8, loss, {.evaluations = 100});
    EXPECT_TRUE(std::isfinite(found.objective));
    EXPECT_LE(found.weights[3], 0.5);
    EXPECT_LT(found.loss, 0.5 * bowl(Weights(8, 0.0)));
    EXPECT_THROW(search_weights(8, [&](const Weights&) { return bad; }), Error);
  }
}

struct Interruption {
  int number;
};

TEST_F(LoraHubSearch, WhatTheLossThrowsReachesTheCaller) {
  for (const int when : {1, 7, 23, 600}) {
    int calls = 0;
    const auto loss = [&](const Weights& weights) {
      if (++calls == when) {
        throw Interruption{calls};
      }
      return Bowl()(weights);
    };
    try {
      search_weights(8, loss, {.evaluations = 3000});
      ADD_FAILURE() << "nothing thrown";
    } catch (const Interruption& interruption) {
      EXPECT_EQ(interruption.number, when);
    }
    EXPECT_EQ(calls, when);
  }
}

TEST_F(LoraHubSearch, OptionsOutOfRangeAreErrors) {
  const Bowl bowl;
  const double nan = std::nan("");
  EXPECT_THROW(search_weights(0, bowl), Error);
  EXPECT_THROW(search_weights(-1, bowl), Error);
  EXPECT_THROW(search_weights(8, {}), Error);
  EXPECT_THROW(search_weights(8, bowl, {.bound = 0.0}), Error);
  EXPECT_THROW(search_weights(8, bowl, {.bound = nan}), Error);
  EXPECT_THROW(search_weights(8, bowl, {.l1 = -0.1}), Error);
  EXPECT_THROW(search_weights(8, bowl, {.l1 = nan}), Error);
  EXPECT_THROW(search_weights(8, bowl, {.evaluations = 0}), Error);
}

}  // namespace
}  // namespace moelora
