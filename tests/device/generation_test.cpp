// Generating on the pretend device: the CPU's tokens.
#include "moelora/model/generation.h"

#include <gtest/gtest.h>

#include "device/adapted_model.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)

const std::vector<model::Prompt>& prompts() {
  static const std::vector<model::Prompt> three{
      {{10, 11, 12, 501, 504}, 4}, {{20, 501, 504}, 2}, {{30, 31, 32, 33, 34, 35, 36, 501, 504}, 8}};
  return three;
}

std::vector<model::Generation> generate(AdaptedModel& made, const model::GenerationOptions& options) {
  made.adapter->eval();
  return model::generate(*made.model, prompts(), options, [&](const nn::Segments& segments) {
    return made.adapter->context(segments, single_tasks({0, 1, 2}));
  });
}

void expect_the_cpus(at::ScalarType dtype, const model::GenerationOptions& options, const ChangeConfig& change = {}) {
  AdaptedModel host = adapted_model(at::kCPU, dtype, change), device = adapted_model(pretend_device(), dtype, change);
  const auto expected = generate(host, options), found = generate(device, options);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(found[i].ids, expected[i].ids) << "sequence " << i;
    EXPECT_EQ(found[i].finished, expected[i].finished) << "sequence " << i;
  }
}

model::GenerationOptions tokens(std::int64_t count) {
  model::GenerationOptions options;
  options.max_new_tokens = count;
  options.end_ids = {505};
  return options;
}

TEST(DeviceGeneration, GreedyEqualsTheCpus) { expect_the_cpus(at::kFloat, tokens(12)); }

TEST(DeviceGeneration, GreedyInFp16EqualsTheCpus) { expect_the_cpus(at::kHalf, tokens(12)); }

TEST(DeviceGeneration, OtherRoutingsEqualTheCpus) {
  expect_the_cpus(at::kFloat, tokens(6), [](auto& c) { c.num_experts = 1; });
  expect_the_cpus(at::kFloat, tokens(6), [](auto& c) { c.gate.per_linear = true; });
  expect_the_cpus(at::kFloat, tokens(6), [](auto& c) { c.routing = Routing::token; });
  expect_the_cpus(at::kFloat, tokens(6), [](auto& c) {
    c.routing = Routing::single;
    c.num_experts = 3;
    c.rank = 9;
  });
  expect_the_cpus(at::kFloat, tokens(6), [](auto& c) { c.prefix = PrefixConfig{3, false, 0.0}; });
}

// Equal logits but for rounding, and the same random numbers.
TEST(DeviceGeneration, SamplingEqualsTheCpus) {
  model::GenerationOptions options = tokens(12);
  options.sample = true;
  options.temperature = 0.8;
  options.top_k = 20;
  options.top_p = 0.9;
  options.seed = 4;
  expect_the_cpus(at::kFloat, options);
}

}  // namespace
}  // namespace moelora
