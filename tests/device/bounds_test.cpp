// What a micro-batch and a decoding step may cost on a device, as counted by the pretend device.
// `--gtest_filter=Bounds.*` with MOELORA_PRINT_COUNTS=1 prints operators by name, and waits and uploads by caller.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "device/adapted_model.h"
#include "moelora/model/generation.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
namespace pretend = testing::pretend;

constexpr std::int64_t kLayers = 28;  // ChatGLM-6B's

void print(const std::string& what, const pretend::Counters& counted) {
  if (std::getenv("MOELORA_PRINT_COUNTS") != nullptr) {
    std::cout << "== " << what << ": " << counted.to_text();
  }
}

/// One micro-batch of training: forward, losses and backward.
pretend::Counters count_micro_batch(AdaptedModel& made, int samples) {
  const auto examples = short_examples(samples);
  pretend::reset();
  train::accumulate_gradients(*made.model, made.adapter.get(), samples_of(examples), 9, 4096);
  return pretend::counters();
}

class MicroBatchBounds : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(MicroBatchBounds, WhateverTheNumberOfSegments) {
  AdaptedModel made = deep_model(kLayers, GetParam());
  count_micro_batch(made, 1);  // makes what is made once
  for (const int samples : {3, 60}) {
    const auto counted = count_micro_batch(made, samples);
    print(std::to_string(samples) + " segments, " + c10::toString(GetParam()), counted);
    RecordProperty("operators_" + std::to_string(samples), static_cast<int>(counted.operators));
    EXPECT_LE(counted.operators, 2500) << samples << " segments";
    EXPECT_LE(counted.waits, 1) << samples << " segments";
    EXPECT_LE(counted.uploads, 2) << samples << " segments";
  }
}

INSTANTIATE_TEST_SUITE_P(Types, MicroBatchBounds, ::testing::Values(at::kFloat, at::kHalf),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

/// A step of decoding: the difference between 2 and 4 new tokens, by the step.
pretend::Counters count_decoding_step(AdaptedModel& made, std::int64_t batch) {
  std::vector<model::Prompt> prompts;
  std::vector<std::int64_t> tasks;
  for (std::int64_t i = 0; i < batch; ++i) {
    prompts.push_back({{5 + i, 6, 7 + i, 91, 94}, 4});
    tasks.push_back(i % 3);
  }
  made.adapter->eval();
  const auto run = [&](std::int64_t tokens) {
    model::GenerationOptions options;
    options.max_new_tokens = tokens;
    pretend::reset();
    model::generate(*made.model, prompts, options,
                    [&](const nn::Segments& segments) { return made.adapter->context(segments, single_tasks(tasks)); });
    return pretend::counters();
  };
  const auto few = run(2), many = run(4);
  print("decoding 4 tokens at batch " + std::to_string(batch), many);
  pretend::Counters step;
  step.operators = (many.operators - few.operators + 1) / 2;
  step.waits = (many.waits - few.waits + 1) / 2;
  step.uploads = (many.uploads - few.uploads + 1) / 2;
  return step;
}

TEST(DecodingBounds, WhateverTheBatch) {
  AdaptedModel made = deep_model(kLayers, at::kHalf);
  for (const std::int64_t batch : {1, 8}) {
    const auto step = count_decoding_step(made, batch);
    RecordProperty("operators_" + std::to_string(batch), static_cast<int>(step.operators));
    EXPECT_LE(step.operators, 700) << "batch " << batch;
    EXPECT_LE(step.waits, 1) << "batch " << batch;
  }
}

}  // namespace
}  // namespace moelora
