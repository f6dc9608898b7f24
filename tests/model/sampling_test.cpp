#include "moelora/model/sampling.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "nn/kernels/cuda/sampling.h"
#include "support/host_launcher.h"

namespace moelora::model {
namespace {

constexpr std::int64_t kRows = 3;

nn::kernels::DecodingRows decoding_rows(const GenerationOptions& options) {
  nn::kernels::DecodingRows rows;
  rows.ids = at::zeros({kRows}, at::kLong);
  rows.positions = at::arange(2 * kRows).view({2, kRows});
  rows.steps = at::tensor({0, 1, 2, 1, 1, 1}, at::kLong).view({2, kRows});
  rows.chosen = at::full({2, kRows}, -1, at::kLong);
  if (options.sample) {
    rows.states = at::zeros({kRows}, at::kLong);
    for (std::int64_t i = 0; i < kRows; ++i) {
      rows.states[i] = static_cast<std::int64_t>(stream_state(options.seed, static_cast<std::uint64_t>(i)));
    }
  }
  return rows;
}

nn::kernels::TokenChoice choice_of(const GenerationOptions& options) {
  return {options.sample, options.temperature, options.top_k, options.top_p};
}

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  at::manual_seed(3);
  TokenSampler greedy({}, 0);
  for (const std::int64_t vocab : {1, 2, 7, 16, 1000, 4099}) {
    for (int i = 0; i < 20; ++i) {
      const at::Tensor logits = i == 0 ? at::full({vocab}, -std::numeric_limits<float>::infinity())
                                       : at::randn({vocab}).mul(i).round().sub(5.0);  // many are equal
      const auto* value = logits.const_data_ptr<float>();
      EXPECT_EQ(greedy.next(logits), std::max_element(value, value + vocab) - value) << vocab << ' ' << i;
    }
  }
  EXPECT_EQ(greedy.next(at::full({5}, std::numeric_limits<float>::quiet_NaN())), 0) << "an index all the same";
}

// Steps of decoding by both; logits of a half model have many ties.
void expect_the_cpus_choices(const GenerationOptions& options, at::ScalarType dtype, std::int64_t vocab, int steps) {
  const testing::HostKernels host;
  at::manual_seed(7);
  const nn::kernels::DecodingRows rows = decoding_rows(options);
  std::vector<TokenSampler> samplers;
  for (std::uint64_t i = 0; i < kRows; ++i) {
    samplers.emplace_back(options, i);
  }
  for (int step = 0; step < steps; ++step) {
    const at::Tensor logits = (at::randn({kRows, vocab}) * 3.0).to(dtype);
    nn::kernels::choose_tokens(logits, choice_of(options), rows);
    for (std::int64_t i = 0; i < kRows; ++i) {
      const std::int64_t expected = samplers[static_cast<std::size_t>(i)].next(logits[i].to(at::kFloat));
      ASSERT_EQ(rows.ids[i].item<std::int64_t>(), expected) << "step " << step << " row " << i << " " << dtype;
    }
    EXPECT_TRUE(at::equal(rows.chosen[0], rows.ids));
    EXPECT_EQ(rows.chosen[1].sum().item<std::int64_t>(), 0);
  }
  EXPECT_TRUE(at::equal(rows.positions, at::arange(2 * kRows).view({2, kRows}) + rows.steps * steps));
}

class ChooseTokens : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(ChooseTokens, GreedyAsTheCpu) {
  for (const std::int64_t vocab : {3, 1030, 2052}) {
    expect_the_cpus_choices({}, GetParam(), vocab, 3);
  }
}

TEST_P(ChooseTokens, DrawAsTheCpu) {
  GenerationOptions options;
  options.sample = true;
  options.seed = 11;
  for (const auto& [temperature, top_k, top_p, vocab] : {std::tuple{1.0, 0, 1.0, 1501},
                                                         {0.7, 0, 0.9, 1000},
                                                         {1.3, 50, 1.0, 1501},
                                                         {0.95, 40, 0.7, 1000},
                                                         {1.0, 1, 1.0, 5},
                                                         {2.0, 5000, 0.01, 96}}) {
    options.temperature = temperature;
    options.top_k = top_k;
    options.top_p = top_p;
    expect_the_cpus_choices(options, GetParam(), vocab, 2);
  }
}

TEST_P(ChooseTokens, TiesGoByIndex) {
  const testing::HostKernels host;
  for (const bool sample : {false, true}) {
    GenerationOptions options;
    options.sample = sample;
    options.top_k = 3;
    const nn::kernels::DecodingRows rows = decoding_rows(options);
    std::vector<TokenSampler> samplers;
    for (std::uint64_t i = 0; i < kRows; ++i) {
      samplers.emplace_back(options, i);
    }
    at::Tensor logits = at::full({kRows, 700}, -1.0).to(GetParam());
    for (const std::int64_t i : {3, 77, 510, 514, 699}) {
      logits.select(1, i).fill_(i == 514 ? -0.0 : 0.0);
    }
    for (int step = 0; step < 3; ++step) {
      nn::kernels::choose_tokens(logits, choice_of(options), rows);
      for (std::int64_t i = 0; i < kRows; ++i) {
        EXPECT_EQ(rows.ids[i].item<std::int64_t>(),
                  samplers[static_cast<std::size_t>(i)].next(logits[i].to(at::kFloat)));
      }
    }
  }
}

TEST_P(ChooseTokens, RowsThatAreNotFiniteAreFlagged) {
  const testing::HostKernels host;
  for (const bool sample : {false, true}) {
    GenerationOptions options;
    options.sample = sample;
    const nn::kernels::DecodingRows rows = decoding_rows(options);
    at::Tensor logits = at::randn({kRows, 300}).to(GetParam());
    logits[1][299] = std::numeric_limits<float>::quiet_NaN();
    logits[2][0] = sample ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
    nn::kernels::choose_tokens(logits, choice_of(options), rows);
    EXPECT_TRUE(at::equal(rows.chosen[1], at::tensor({0, 1, 1}, at::kLong)));
    EXPECT_EQ(rows.ids[1].item<std::int64_t>(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Elements, ChooseTokens, ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

}  // namespace
}  // namespace moelora::model
