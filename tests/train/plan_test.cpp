#include "moelora/train/plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "data/fakes.h"
#include "moelora/io/error.h"
#include "moelora/train/step.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

std::vector<at::Tensor> gradients_of(const Adapter& adapter) {
  std::vector<at::Tensor> gradients;
  for (at::Tensor& parameter : adapter->parameters()) {
    gradients.push_back(parameter.grad().clone());
    parameter.mutable_grad() = at::Tensor();
  }
  return gradients;
}

TEST(Plan, CountsRowsLabelsAndPairs) {
  data::Example example;
  example.ids.resize(7);
  example.label_begin = 4;
  const model::ChatGlm model = fixture::tiny_model();
  const model::Workload load = workload_of(*model, {&example, &example});
  EXPECT_EQ(load.rows, 14);
  EXPECT_EQ(load.labels, 6);
  // In a prefix-LM the 4 rows before the labels see 4 keys each; the others see 5, 6 and 7.
  EXPECT_EQ(load.pairs, 2 * (16 + 5 + 6 + 7));
  data::fakes::PositionsOnlyLM causal;
  causal.causal = true;
  const model::Workload of_causal = workload_of(causal, {&example, &example});
  EXPECT_EQ(of_causal.labels, load.labels);
  EXPECT_EQ(of_causal.pairs, 2 * (1 + 2 + 3 + 4 + 5 + 6 + 7));
}

TEST(Plan, RecomputesAsFewBlocksAsTheBudgetAllows) {
  const model::ChatGlm model = fixture::tiny_model();
  const model::Workload load{4096, 1000, 1 << 20};
  const std::int64_t most = model->shape().layers - 1;
  ASSERT_GE(most, 2);
  EXPECT_EQ(blocks_to_recompute(*model, load, std::numeric_limits<double>::infinity()), 0);
  EXPECT_EQ(blocks_to_recompute(*model, load, 0.0), most);
  const auto all = [&](std::int64_t blocks) {
    const model::StepCost cost = *model->step_cost(load, blocks);
    return cost.stored_bytes + cost.working_bytes;
  };
  EXPECT_LT(all(most), all(0));
  EXPECT_EQ(blocks_to_recompute(*model, load, all(0)), 0);
  EXPECT_EQ(blocks_to_recompute(*model, load, all(most)), most);
  EXPECT_GT(model->step_cost(load, most)->operations, model->step_cost(load, 0)->operations);
}

TEST(Plan, BlocksRunAgainGiveTheSameBytes) {
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model, 0.3);
  fixture::fill_b(adapter);
  const auto examples = fixture::toy_examples(6);
  StepSamples samples;
  for (const data::Example& example : examples) {
    samples.draws.push_back(static_cast<std::int64_t>(samples.examples.size()));
    samples.examples.push_back(&example);
  }
  const SampleLosses kept = accumulate_gradients(*model, adapter.get(), samples, 7, 1 << 20);
  const auto expected = gradients_of(adapter);
  const SampleLosses again = accumulate_gradients(*model, adapter.get(), samples, 7, 1 << 20, 1.0, 0, 0.0);
  const auto found = gradients_of(adapter);
  EXPECT_EQ(kept.sums, again.sums);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_GT(expected[i].abs().max().item<float>(), 0.0f) << i;
    EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
  }
}

TEST(Plan, GrowsWithTheMicroBatchAndShrinksWithTheBudget) {
  model::ChatGlm model = fixture::tiny_model();
  const Adapter adapter = fixture::tiny_adapter(model);
  const auto examples = fixture::toy_examples(12);
  std::vector<const data::Example*> samples;
  for (const data::Example& example : examples) {
    samples.push_back(&example);
  }
  const Machine machine{1e8, 1e11};
  const auto plan = [&](std::int64_t tokens, double budget) {
    return plan_step(*model, adapter.get(), adapter->parameters(), samples, tokens, budget, machine);
  };
  const StepPlan whole = plan(1 << 20, 0.0);
  const StepPlan parts = plan(40, 0.0);
  const StepPlan tight = plan(1 << 20, 1.0);
  EXPECT_EQ(whole.micro_batches, 1);
  EXPECT_GT(parts.micro_batches, 1);
  EXPECT_GT(whole.peak_bytes, parts.peak_bytes);
  EXPECT_GT(parts.peak_bytes, machine.resident_bytes);
  EXPECT_EQ(whole.recomputed_blocks, 0);
  EXPECT_EQ(tight.recomputed_blocks, model->shape().layers - 1);
  EXPECT_GT(tight.seconds, whole.seconds);
}

TEST(Plan, RoutingSingleTakesThePlainLorasOperations) {
  model::ChatGlm model = fixture::tiny_model();
  const auto examples = fixture::toy_examples(6);
  StepSamples samples;
  for (const data::Example& example : examples) {
    samples.draws.push_back(static_cast<std::int64_t>(samples.examples.size()));
    samples.examples.push_back(&example);
  }
  MoeLoraConfig config = fixture::tiny_adapter_config(0.3);
  config.routing = Routing::single;
  config.num_experts = 3;
  config.rank = 12;
  Adapter single = inject(*model, config, TaskNames({"sum", "echo", "rest"}), "single");
  config.routing = Routing::uniform;
  config.num_experts = 1;
  config.rank = 4;
  const Adapter plain = inject(*model, config, TaskNames({"sum", "echo", "rest"}), "plain");
  const auto seconds = [&](const Adapter& adapter) {
    return plan_step(*model, adapter.get(), {}, samples.examples, 1 << 20, 0.0, Machine{1e8, 1e11}).seconds;
  };
  EXPECT_NEAR(seconds(single), seconds(plain), 1e-9 * seconds(plain));
  // Recomputed blocks choose the same slices.
  single->enable();
  fixture::fill_b(single);
  const SampleLosses kept = accumulate_gradients(*model, single.get(), samples, 7, 1 << 20);
  const auto expected = gradients_of(single);
  EXPECT_EQ(kept.sums, accumulate_gradients(*model, single.get(), samples, 7, 1 << 20, 1.0, 0, 0.0).sums);
  const auto found = gradients_of(single);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_GT(expected[i].abs().max().item<float>(), 0.0f) << i;
    EXPECT_TRUE(at::equal(found[i], expected[i])) << i;
  }
}

}  // namespace
}  // namespace moelora::train
