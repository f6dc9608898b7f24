// Training in fp16: steps whose gradients overflow are skipped, counted and told of.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/train/diverged.h"
#include "moelora/train/loss_scaler.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
using io::raises;

model::ChatGlm half_model(double head_factor) {
  model::LoadOptions load;
  load.dtype = at::kHalf;
  log::set_level(log::Level::warning);
  model::ChatGlm model = model::load_chatglm(testing::fixtures() / "chatglm-tiny", load);
  at::NoGradGuard no_grad;
  model->head_weight().mul_(head_factor);
  return model;
}

/// A run whose first gradients overflow, while its losses are finite: the head multiplies both ways.
struct HalfRun {
  explicit HalfRun(double head_factor = 400.0) : model(half_model(head_factor)) {}

  TrainResult operator()(const fs::path& output, std::int64_t steps, bool resume = false) {
    TrainingOptions options = fixture::toy_options(steps);
    options.checkpoint_every = 1;
    options.keep_checkpoints = 20;
    return train({*model, adapter.get(), training, none, {"sum", "echo", "rest"}, output, resume, "base", "", {}},
                 options, callbacks);
  }

  std::vector<data::Example> training = fixture::toy_examples(12);
  std::vector<data::Example> none;
  model::ChatGlm model;
  Adapter adapter = fixture::tiny_adapter(model, 0.1);
  Callbacks callbacks = fixture::quiet();
};

std::vector<nlohmann::ordered_json> lines_of(const fs::path& output) {
  std::vector<nlohmann::ordered_json> lines;
  for (const std::string& line : fixture::log_without_times(output)) {
    lines.push_back(nlohmann::ordered_json::parse(line));
  }
  return lines;
}

TEST(LossScaling, SkipsStepsWhoseGradientsOverflow) {
  testing::TemporaryFolder folder;
  const fs::path output = folder.path() / "run";
  std::vector<bool> skipped;
  HalfRun run;
  run.callbacks.on_step = [&](const StepReport& report) { skipped.push_back(report.skipped); };
  run(output, 9);
  const auto lines = lines_of(output);
  ASSERT_EQ(lines.size(), 9u);
  ASSERT_TRUE(skipped.front()) << "the gradient of the first step was to overflow";
  ASSERT_FALSE(skipped.back()) << "a smaller scale was to be found";
  std::int64_t count = 0;
  double scale = LossScaler::kInitialScale;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_TRUE(lines[i]["loss"].is_number());
    EXPECT_EQ(lines[i].contains("skipped"), skipped[i]);
    if (skipped[i]) {
      EXPECT_EQ(lines[i]["skipped_steps"], ++count);
      EXPECT_TRUE(lines[i]["grad_norm"].is_null());
      scale /= 2.0;
    }
    EXPECT_EQ(lines[i]["loss_scale"], scale);
  }
  const CheckpointFolder checkpoints(output / "checkpoints");
  EXPECT_EQ(checkpoints.read(9).skipped_steps, count);
  // What a skipped step leaves is what was there; AdamW counts the others.
  const auto tensors = [&](std::int64_t step) {
    return io::SafetensorsFile(checkpoints.path_of(step) / "optimizer.safetensors").tensor("steps");
  };
  EXPECT_EQ(tensors(9)[0].item<std::int64_t>(), 9 - count);
  EXPECT_EQ(tensors(1)[0].item<std::int64_t>(), 0);
  HalfRun untouched;
  fs::create_directories(folder.path() / "expected");
  save_adapter(*untouched.adapter, folder.path() / "expected" / "adapter", "base", "");
  EXPECT_TRUE(fixture::bytes_of(checkpoints.path_of(1) / "adapter" / "adapter.safetensors") ==
              fixture::bytes_of(folder.path() / "expected" / "adapter" / "adapter.safetensors"));
}

TEST(LossScaling, ResumesAmongSkippedStepsBitForBit) {
  testing::TemporaryFolder folder;
  const fs::path whole = folder.path() / "whole";
  HalfRun()(whole, 8);
  const fs::path output = folder.path() / "run";
  std::atomic<bool> stop = false;
  HalfRun first;
  first.callbacks.stop = &stop;
  first.callbacks.on_step = [&](const StepReport& report) {
    if (report.step == 1) {
      EXPECT_TRUE(report.skipped);
      stop = true;
    }
  };
  EXPECT_TRUE(first(output, 8).stopped);
  HalfRun()(output, 8, true);
  EXPECT_EQ(fixture::log_without_times(output), fixture::log_without_times(whole));
  EXPECT_TRUE(fixture::bytes_of(output / "adapter" / "adapter.safetensors") ==
              fixture::bytes_of(whole / "adapter" / "adapter.safetensors"));
}

TEST(LossScaling, NamesTheLayerWhenNoScaleHelps) {
  testing::TemporaryFolder folder;
  HalfRun run(1.0);
  {
    at::NoGradGuard no_grad;
    for (const auto& parameter : run.model->named_parameters()) {
      if (parameter.key().ends_with("layers.1.mlp.dense_4h_to_h.weight")) {
        parameter.value().fill_(60000.0);
      }
    }
  }
  const fs::path output = folder.path() / "run";
  std::string text;
  try {
    run(output, 9);
  } catch (const TrainingDiverged& error) {
    text = error.what();
  }
  for (const char* part : {"the loss of step 3 is not finite, in samples toy-", "3 steps in a row were skipped",
                           "the first layer whose output is not finite is transformer.layers.1"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_EQ(lines_of(output).size(), 2u);
}

TEST(LossScaling, TellsOfThreeSkippedStepsInARowOnce) {
  testing::TemporaryFolder folder;
  HalfRun run(3000.0);
  std::int64_t skipped = 0;
  run.callbacks.on_step = [&](const StepReport& report) { skipped += report.skipped ? 1 : 0; };
  const std::string said = fixture::said_by([&] { run(folder.path() / "run", 12); });
  ASSERT_GE(skipped, 4);
  const std::string text =
      "step 3: 3 steps in a row were skipped, for their gradients overflowed: all losses are finite";
  EXPECT_NE(said.find(text), std::string::npos) << said;
  EXPECT_EQ(said.find("steps in a row", said.find(text) + text.size()), std::string::npos) << said;
}

}  // namespace
}  // namespace moelora::train
