// Adapters with a prefix on a real graph: training, resume, packing, generation.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/adapter/adapter_file.h"
#include "moelora/model/generation.h"
#include "moelora/train/plan.h"
#include "moelora/train/step.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

const std::vector<std::string> kPrefixTasks{"sum", "echo", "rest"};

MoeLoraConfig prefix_adapter_config(bool linears, bool projection, double dropout) {
  MoeLoraConfig config = fixture::tiny_adapter_config(dropout);
  if (!linears) {
    config.targets.clear();
  }
  config.prefix = PrefixConfig{4, projection, dropout};
  return config;
}

struct PrefixRun {
  explicit PrefixRun(const MoeLoraConfig& config)
      : model(fixture::tiny_model()), adapter(inject(*model, config, TaskNames(kPrefixTasks))) {}
  TrainResult operator()(const std::filesystem::path& output, const TrainingOptions& options, bool resume = false,
                         const Callbacks& callbacks = fixture::quiet()) {
    return train({*model, adapter.get(), training, validation, kPrefixTasks, output, resume, "base", "tokenizer", {}},
                 options, callbacks);
  }
  nn::ContextMaker context_maker() const { return for_task(adapter, kPrefixTasks[1]); }
  std::vector<data::Example> training = fixture::toy_examples(40);
  std::vector<data::Example> validation = fixture::toy_examples(9);
  model::ChatGlm model;
  Adapter adapter;
};

TEST(PrefixTraining, LowersTheLossByThePrefixAlone) {
  for (const bool projection : {false, true}) {
    testing::TemporaryFolder folder;
    PrefixRun run(prefix_adapter_config(false, projection, 0.1));
    const double before = validation_loss(*run.model, run.adapter.get(), run.validation, kPrefixTasks, 512).loss;
    TrainingOptions options = fixture::toy_options(60);
    options.learning_rate = projection ? 1e-2 : 1e-1;
    options.checkpoint_every = 20;
    const TrainResult result = run(folder.path() / "run", options);
    ASSERT_TRUE(result.best_validation_loss.has_value());
    EXPECT_LT(*result.best_validation_loss, 0.8 * before) << projection;
  }
}

TEST(PrefixTraining, StoppedAndResumedItEndsWithTheSameBytes) {
  const MoeLoraConfig config = prefix_adapter_config(true, true, 0.2);
  const TrainingOptions options = fixture::toy_options(8);
  testing::TemporaryFolder folder;
  {
    PrefixRun run(config);
    run(folder.path() / "whole", options);
  }
  const std::string expected = fixture::bytes_of(folder.path() / "whole" / "adapter" / "adapter.safetensors");
  ASSERT_FALSE(expected.empty());
  for (const std::int64_t stop_at : {1, 5}) {
    const std::filesystem::path output = folder.path() / std::to_string(stop_at);
    std::atomic<bool> stop = false;
    Callbacks callbacks = fixture::quiet();
    callbacks.stop = &stop;
    callbacks.on_step = [&](const StepReport& report) { stop = report.step == stop_at; };
    {
      PrefixRun run(config);
      EXPECT_TRUE(run(output, options, false, callbacks).stopped);
    }
    PrefixRun run(config);
    EXPECT_EQ(run(output, options, true).step, 8);
    EXPECT_EQ(fixture::log_without_times(output), fixture::log_without_times(folder.path() / "whole"));
    EXPECT_EQ(fixture::bytes_of(output / "adapter" / "adapter.safetensors"), expected);
  }
}

TEST(PrefixTraining, PackingChangesNeitherLossesNorGradients) {
  PrefixRun run(prefix_adapter_config(true, false, 0.3));
  fixture::fill_b(run.adapter);
  const auto examples = fixture::toy_examples(5);
  StepSamples samples;
  for (std::size_t i = 0; i < examples.size(); ++i) {
    samples.examples.push_back(&examples[i]);
    samples.draws.push_back(static_cast<std::int64_t>(100 + 3 * i));
  }
  const auto take = [&] {
    const at::Tensor gradient = run.adapter->prefix_encoder()->embedding.grad().clone();
    for (const at::Tensor& parameter : run.adapter->parameters()) {
      parameter.mutable_grad() = at::Tensor();
    }
    return gradient;
  };
  const SampleLosses packed = accumulate_gradients(*run.model, run.adapter.get(), samples, 9, 1 << 20);
  const at::Tensor expected = take();
  const SampleLosses single = accumulate_gradients(*run.model, run.adapter.get(), samples, 9, 1);
  const at::Tensor found = take();
  // Recomputed blocks: the same numbers.
  accumulate_gradients(*run.model, run.adapter.get(), samples, 9, 1 << 20, 1.0, 0, 0.0);
  EXPECT_TRUE(at::equal(take(), expected));
  for (std::size_t i = 0; i < examples.size(); ++i) {
    EXPECT_NEAR(single.sums[i], packed.sums[i], 1e-5 * packed.sums[i]) << i;
  }
  EXPECT_GT(expected.abs().max().item<double>(), 0.0);
  EXPECT_LE((found - expected).abs().max().item<double>(), 1e-5 * expected.abs().max().item<double>());
}

TEST(PrefixTraining, IsPartOfAPlan) {
  PrefixRun run(prefix_adapter_config(false, false, 0.1));
  std::vector<const data::Example*> samples{&run.training[0], &run.training[1]};
  EXPECT_EQ(prefix_bytes(*run.model, nullptr, samples), 0.0);
  const double alone = prefix_bytes(*run.model, run.adapter.get(), {samples[1]});
  const double both = prefix_bytes(*run.model, run.adapter.get(), samples);
  // With dropout each sample has 4 positions of its own, with their gradients.
  EXPECT_DOUBLE_EQ(both - alone, 4.0 * 2.0 * 4.0 * static_cast<double>(run.model->prefix_shape().width()));
  const Machine machine{1e9, 1e9};
  const StepPlan with = plan_step(*run.model, run.adapter.get(), {}, samples, 1 << 20, 0.0, machine);
  const StepPlan without = plan_step(*run.model, nullptr, {}, samples, 1 << 20, 0.0, machine);
  EXPECT_DOUBLE_EQ(with.peak_bytes - without.peak_bytes, both);
  EXPECT_GT(with.seconds, without.seconds);
}

TEST(PrefixGeneration, EqualsDecodingWithoutACache) {
  PrefixRun run(prefix_adapter_config(true, true, 0.1));
  fixture::fill_b(run.adapter);
  const std::vector<model::Prompt> prompts{{{11, 12, 13, 501, 504}, 4}, {{20, 501, 504}, 2}};
  model::GenerationOptions options;
  options.max_new_tokens = 6;
  std::vector<std::vector<at::Tensor>> logits(prompts.size());
  const auto results = model::generate(*run.model, prompts, options, run.context_maker(), {},
                                       [&](const at::Tensor& step, const std::vector<std::int64_t>& sequences) {
                                         for (std::size_t row = 0; row < sequences.size(); ++row) {
                                           logits[sequences[row]].push_back(step[row].clone());
                                         }
                                       });
  at::NoGradGuard guard;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    model::TokenIds ids = prompts[i].ids;
    for (std::size_t step = 0; step < results[i].ids.size(); ++step) {
      const auto segments =
          nn::Segments::from_lengths({static_cast<std::int64_t>(ids.size())}, {prompts[i].bidirectional_rows});
      const at::Tensor hidden =
          run.model->hidden(at::tensor(ids, at::kLong), run.model->positions(segments), run.context_maker()(segments));
      const at::Tensor expected = run.model->logits(hidden[-1].unsqueeze(0))[0];
      EXPECT_LE((logits[i][step] - expected).abs().max().item<double>(), 1e-4) << "prompt " << i << " step " << step;
      ids.push_back(results[i].ids[step]);
    }
  }
}

TEST(PrefixGeneration, ADisabledAdapterIsTheBase) {
  PrefixRun run(prefix_adapter_config(false, false, 0.1));
  const std::vector<model::Prompt> prompts{{{11, 12, 13, 501, 504}, 4}};
  const auto logits_with = [&](const nn::ContextMaker& context) {
    at::Tensor first;
    model::GenerationOptions options;
    options.max_new_tokens = 1;
    model::generate(*run.model, prompts, options, context, {},
                    [&](const at::Tensor& step, const std::vector<std::int64_t>&) { first = step.clone(); });
    return first;
  };
  const at::Tensor base = logits_with({});
  EXPECT_FALSE(at::allclose(logits_with(run.context_maker()), base, 1e-3, 1e-3));
  run.adapter->disable();
  EXPECT_TRUE(at::equal(logits_with(run.context_maker()), base));
}

}  // namespace
}  // namespace moelora::train
