#include "moelora/train/trainer.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <new>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/memory.h"
#include "moelora/train/checkpoint.h"
#include "moelora/train/diverged.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

const std::vector<std::string> kTasks{"sum", "echo", "rest"};

struct AdapterRun {
  std::vector<data::Example> training = fixture::toy_examples(40);
  std::vector<data::Example> validation = fixture::toy_examples(9);
  model::ChatGlm model = fixture::tiny_model();
  Adapter adapter = fixture::tiny_adapter(model);

  TrainResult operator()(const std::filesystem::path& output, const TrainingOptions& options, bool resume = false,
                         const Callbacks& callbacks = fixture::quiet()) {
    return train({*model, adapter.get(), training, validation, kTasks, output, resume, "base", "tokenizer", {}},
                 options, callbacks);
  }
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Trainer, LearnsAToySetAndLogsEveryTask) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  const double before = validation_loss(*run.model, run.adapter.get(), run.validation, kTasks, 512).loss;
  TrainingOptions options = fixture::toy_options(60);
  options.checkpoint_every = 20;
  const TrainResult result = run(folder.path() / "run", options);
  EXPECT_EQ(result.step, 60);
  EXPECT_FALSE(result.stopped);
  ASSERT_TRUE(result.best_validation_loss.has_value());
  EXPECT_LT(*result.best_validation_loss, 0.7 * before);
  // The adapter holds the best parameters.
  EXPECT_EQ(validation_loss(*run.model, run.adapter.get(), run.validation, kTasks, options.micro_batch_tokens).loss,
            *result.best_validation_loss);
  EXPECT_TRUE(std::filesystem::exists(result.result / "adapter.safetensors"));
  const auto lines = fixture::log_without_times(folder.path() / "run");
  const auto fourth = nlohmann::ordered_json::parse(lines[3]);
  EXPECT_EQ(fourth["step"], 4);
  EXPECT_EQ(fourth["loss_by_task"].size(), 3u);
  EXPECT_EQ(fourth["expert_weights"]["echo"].size(), 4u);
  EXPECT_EQ(nlohmann::ordered_json::parse(lines.back())["validation_loss_by_task"].size(), 3u);
}

TEST(Trainer, GatesAndRoutersHaveTheirOwnLearningRate) {
  const auto with_gates = [](bool per_linear, Routing routing) {
    MoeLoraConfig config = fixture::tiny_adapter_config(0.0);
    config.gate.per_linear = per_linear;
    config.routing = routing;
    return config;
  };
  for (const MoeLoraConfig& config :
       {with_gates(false, Routing::task), with_gates(true, Routing::task), with_gates(false, Routing::token)}) {
    testing::TemporaryFolder folder;
    AdapterRun run;
    eject(run.adapter);
    run.adapter = inject(*run.model, config, TaskNames({"sum", "echo", "rest"}));
    std::vector<at::Tensor> before;
    for (const auto& [name, tensor] : adapter_tensors(*run.adapter)) {
      before.push_back(tensor.detach().clone());
    }
    run.validation.clear();  // the adapter is the last step's
    TrainingOptions options = fixture::toy_options(3);
    options.gate_learning_rate_ratio = 0.0;
    run(folder.path() / "run", options);
    const auto after = adapter_tensors(*run.adapter);
    std::size_t routing = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
      const bool is_routing = after[i].first.find("gate") == 0 || after[i].first.ends_with(".router");
      EXPECT_EQ(at::equal(after[i].second, before[i]), is_routing) << after[i].first;
      routing += is_routing ? 1 : 0;
    }
    EXPECT_GT(routing, 0U);
  }
}

TEST(Trainer, StoppedAfterAnyStepItEndsWithTheSameBytes) {
  testing::TemporaryFolder folder;
  constexpr std::int64_t kSteps = 8;
  TrainingOptions options = fixture::toy_options(kSteps);
  options.batching = data::Batching::by_task;
  {
    AdapterRun run;
    run(folder.path() / "whole", options);
  }
  const auto expected_log = fixture::log_without_times(folder.path() / "whole");
  const std::string expected = fixture::bytes_of(folder.path() / "whole" / "adapter" / "adapter.safetensors");
  ASSERT_FALSE(expected.empty());
  for (std::int64_t stop_at = 1; stop_at < kSteps; ++stop_at) {
    const std::filesystem::path output = folder.path() / ("stopped-" + std::to_string(stop_at));
    std::atomic<bool> stop = false;
    Callbacks callbacks = fixture::quiet();
    callbacks.stop = &stop;
    callbacks.on_step = [&](const StepReport& report) { stop = report.step == stop_at; };
    {
      AdapterRun run;
      const TrainResult stopped = run(output, options, false, callbacks);
      EXPECT_TRUE(stopped.stopped);
      EXPECT_EQ(stopped.step, stop_at);
      EXPECT_FALSE(std::filesystem::exists(output / "adapter"));
    }
    AdapterRun run;
    EXPECT_EQ(run(output, options, true).step, kSteps);
    EXPECT_EQ(fixture::log_without_times(output), expected_log) << stop_at;
    EXPECT_EQ(fixture::bytes_of(output / "adapter" / "adapter.safetensors"), expected) << stop_at;
  }
}

// A killed program leaves later log lines and half-written folders behind, and no checkpoint of its last steps.
TEST(Trainer, KilledBetweenCheckpointsItEndsWithTheSameBytes) {
  testing::TemporaryFolder folder;
  const TrainingOptions options = fixture::toy_options(8);
  {
    AdapterRun run;
    run(folder.path() / "whole", options);
  }
  for (const std::int64_t kill_at : {2, 5, 8}) {
    const std::filesystem::path output = folder.path() / ("killed-" + std::to_string(kill_at));
    Callbacks callbacks = fixture::quiet();
    callbacks.on_step = [&](const StepReport& report) {
      if (report.step == kill_at) {
        throw std::runtime_error("killed");
      }
    };
    {
      AdapterRun run;
      EXPECT_THROW(run(output, options, false, callbacks), std::runtime_error);
    }
    std::filesystem::create_directories(output / "checkpoints" / "step-7.tmp-99999999-0");
    AdapterRun run;
    run(output, options, true);
    EXPECT_EQ(fixture::log_without_times(output), fixture::log_without_times(folder.path() / "whole")) << kill_at;
    EXPECT_EQ(fixture::bytes_of(output / "adapter" / "adapter.safetensors"),
              fixture::bytes_of(folder.path() / "whole" / "adapter" / "adapter.safetensors"));
    run(output, options, true);  // nothing left to do: the same result again
    EXPECT_EQ(fixture::bytes_of(output / "adapter" / "adapter.safetensors"),
              fixture::bytes_of(folder.path() / "whole" / "adapter" / "adapter.safetensors"));
  }
}

TEST(Trainer, KeepsTheNewestCheckpointsAndTheBest) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  TrainingOptions options = fixture::toy_options(12);
  options.checkpoint_every = 2;
  options.keep_checkpoints = 2;
  const TrainResult result = run(folder.path() / "run", options);
  const auto steps = CheckpointFolder(folder.path() / "run" / "checkpoints").steps();
  EXPECT_LE(steps.size(), 3u);
  EXPECT_NE(std::find(steps.begin(), steps.end(), result.best_step), steps.end());
  EXPECT_EQ(steps.back(), 12);
}

TEST(Trainer, TrainsEveryParameterOfABaseAndResumesThat) {
  testing::TemporaryFolder folder;
  const std::vector<data::Example> training = fixture::toy_examples(30);
  const std::vector<data::Example> none;
  TrainingOptions options = fixture::toy_options(6);
  options.learning_rate = 1e-3;
  const auto run = [&](const std::filesystem::path& output, bool resume, std::int64_t stop_at) {
    model::ChatGlm model = fixture::tiny_model();
    std::atomic<bool> stop = false;
    Callbacks callbacks = fixture::quiet();
    callbacks.stop = &stop;
    callbacks.on_step = [&](const StepReport& report) { stop = report.step == stop_at; };
    callbacks.save_model = [&](const std::filesystem::path& to) { model::save_chatglm(*model, to); };
    const double before = validation_loss(*model, nullptr, training, kTasks, 512).loss;
    const TrainResult result =
        train({*model, nullptr, training, none, kTasks, output, resume, "", "", {}}, options, callbacks);
    if (!resume && !result.stopped) {
      EXPECT_LT(validation_loss(*model, nullptr, training, kTasks, 512).loss, before);
    }
  };
  run(folder.path() / "whole", false, 0);
  run(folder.path() / "stopped", false, 4);
  run(folder.path() / "stopped", true, 0);
  EXPECT_EQ(fixture::log_without_times(folder.path() / "stopped"), fixture::log_without_times(folder.path() / "whole"));
  const std::string expected = fixture::bytes_of(folder.path() / "whole" / "model" / "model.safetensors");
  EXPECT_FALSE(expected.empty());
  EXPECT_TRUE(fixture::bytes_of(folder.path() / "stopped" / "model" / "model.safetensors") == expected);
}

TEST(Trainer, TrainsAnAdapterOfAHalfPrecisionBaseWithLossScaling) {
  testing::TemporaryFolder folder;
  model::LoadOptions load;
  load.dtype = at::kHalf;
  model::ChatGlm model = model::load_chatglm(testing::fixtures() / "chatglm-tiny", load);
  Adapter adapter = fixture::tiny_adapter(model, 0.0);
  const std::vector<data::Example> training = fixture::toy_examples(12);
  TrainingOptions options = fixture::toy_options(10);
  const TrainResult result =
      train({*model, adapter.get(), training, training, kTasks, folder.path() / "run", false, "", "", {}}, options,
            fixture::quiet());
  const auto lines = fixture::log_without_times(folder.path() / "run");
  const auto first = nlohmann::ordered_json::parse(lines.front());
  EXPECT_GE(first["loss_scale"], 1024.0);
  EXPECT_LT(*result.best_validation_loss, first["loss"]);
  for (const auto& parameter : adapter->parameters()) {
    EXPECT_EQ(parameter.scalar_type(), at::kFloat);
  }
}

TEST(Trainer, NamesStepAndSampleOfALossThatIsNotFinite) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  run.training = fixture::toy_examples(4);
  {
    at::NoGradGuard no_grad;
    run.model->transformer->word_embeddings->weight[10] = std::numeric_limits<double>::quiet_NaN();  // toy-0 only
  }
  TrainingOptions options = fixture::toy_options(4);
  options.batch_size = 4;
  const std::string text = error_of([&] { run(folder.path() / "run", options); });
  EXPECT_NE(text.find("the loss of step 1 is not finite, in samples toy-0;"), std::string::npos) << text;
  EXPECT_THROW(run(folder.path() / "again", options), TrainingDiverged);
}

TEST(Trainer, MemoryThatRunsOutIsAnErrorThatSaysWhatToLower) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  int runs = 0;
  const auto run_that_fails = [&](const std::function<void()>& fail) {
    Callbacks callbacks = fixture::quiet();
    callbacks.on_step = [&](const StepReport&) { fail(); };
    run(folder.path() / std::to_string(++runs), fixture::toy_options(2), false, callbacks);
  };
  EXPECT_THROW(run_that_fails([] { throw std::bad_alloc(); }), io::OutOfMemory);
  const auto of_libtorch = [] { TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory"); };
  const std::string text = error_of([&] { run_that_fails(of_libtorch); });
  EXPECT_NE(text.find("lower training.micro_batch_tokens"), std::string::npos) << text;
  // An error of another kind that talks of memory stays what it is.
  EXPECT_EQ(error_of([&] { run_that_fails([] { throw Error("the tape is out of memory"); }); }),
            "the tape is out of memory");
}

TEST(Trainer, RefusesToMixRunsInOneFolder) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  TrainingOptions options = fixture::toy_options(3);
  run(folder.path() / "run", options);
  EXPECT_NE(error_of([&] { run(folder.path() / "run", options); }).find("holds a run already"), std::string::npos);
  options.learning_rate = 1.0;
  options.batch_size = 3;
  options.log_every = 1;
  run.training.pop_back();
  const std::string text = error_of([&] { run(folder.path() / "run", options, true); });
  for (const char* part :
       {"training.batch_size: the run began with 6, found 3", "the training or validation data are not"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
  for (const char* free : {"log_every", "learning_rate"}) {
    EXPECT_EQ(text.find(free), std::string::npos) << text;
  }
}

TEST(Trainer, RefusesSamplesThatTheModelCannotTake) {
  testing::TemporaryFolder folder;
  AdapterRun run;
  run.training[3].ids.resize(5000, 20);
  EXPECT_NE(error_of([&] { run(folder.path() / "a", fixture::toy_options(2)); }).find("sample toy-3 has 5000 tokens"),
            std::string::npos);
  run.training = {};
  EXPECT_NE(error_of([&] { run(folder.path() / "b", fixture::toy_options(2)); }).find("at least one training sample"),
            std::string::npos);
}

TEST(Checkpoints, ADamagedNewestOneIsPassedOver) {
  testing::TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path());
  RunState state;
  state.identity.options = "{}";
  state.window["echo"] = {0.1 + 0.2, 7};
  for (const std::int64_t step : {3, 20}) {
    state.step = step;
    checkpoints.write(state, [](const std::filesystem::path&) {});
  }
  std::filesystem::create_directories(folder.path() / "step-30.tmp-1-0");
  EXPECT_EQ(checkpoints.steps(), (std::vector<std::int64_t>{3, 20}));
  EXPECT_EQ(checkpoints.newest()->step, 20);
  EXPECT_EQ(checkpoints.newest()->window["echo"].first, 0.1 + 0.2);
  EXPECT_FALSE(checkpoints.newest()->best_loss.has_value());
  std::ofstream(checkpoints.path_of(20) / "state.json") << "{\"step\": ";
  EXPECT_EQ(checkpoints.newest()->step, 3);
}

}  // namespace
}  // namespace moelora::train
