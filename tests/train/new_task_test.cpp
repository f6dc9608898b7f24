#include "moelora/train/new_task.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/new_task.h"
#include "moelora/io/error.h"
#include "moelora/train/step.h"
#include "train/fixture.h"
#include "train/new_task_only.h"

namespace moelora::train {
namespace {

/// Samples like the task echo's, so that the new row should move from the mean towards echo's.
std::vector<data::Example> again_examples(int count) {
  std::vector<data::Example> examples;
  for (const data::Example& example : fixture::toy_examples(3 * count)) {
    if (example.task == 1) {
      examples.push_back(example);
      examples.back().task = 3;
    }
  }
  return examples;
}

std::vector<data::Record> records_of(const std::vector<std::string>& tasks) {
  std::vector<data::Record> records(tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    records[i].task = tasks[i];
  }
  return records;
}

/// Adapters of three tasks, one with one gate and one with a gate for each linear, in folders.
class NewTaskTraining : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<testing::TemporaryFolder>();
    for (const bool per_linear : {false, true}) {
      model::ChatGlm model = fixture::tiny_model();
      MoeLoraConfig config = fixture::tiny_adapter_config(0.1);
      config.gate.per_linear = per_linear;
      Adapter adapter = inject(*model, config, TaskNames({"sum", "echo", "rest"}));
      const auto examples = fixture::toy_examples(40);
      TrainingOptions options = fixture::toy_options(per_linear ? 4 : 60);
      options.checkpoint_every = 100;
      const std::vector<data::Example> none;
      train({*model, adapter.get(), examples, none, adapter->tasks().names(), run_of(per_linear), false, "", "", {}},
            options, fixture::quiet());
    }
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static std::filesystem::path run_of(bool per_linear) {
    return folder_->path() / (per_linear ? "per-linear" : "one-gate");
  }
  static Adapter load(model::ChatGlm& model, bool per_linear = false) {
    return load_with_new_task(*model, run_of(per_linear) / "adapter", records_of({"again", "again"}), "", "");
  }
  static TrainingOptions options(std::int64_t steps) {
    TrainingOptions options = fixture::toy_options(steps);
    options.learning_rate = 0.1;
    return options;
  }
  /// Of an adapter with the new task, from the beginning or from the newest checkpoint.
  struct Fit {
    model::ChatGlm model = fixture::tiny_model();
    Adapter adapter{nullptr};
    std::vector<data::Example> training = again_examples(8);
    std::vector<data::Example> validation = again_examples(12);
    explicit Fit(bool per_linear = false) : adapter(load(model, per_linear)) {}
    TrainResult operator()(const std::filesystem::path& output, const TrainingOptions& options, bool resume = false,
                           const Callbacks& callbacks = fixture::quiet()) {
      TrainInputs inputs{*model, adapter.get(), training, validation, adapter->tasks().names(),
                         output, resume,        "base",   "",         {}};
      inputs.new_task_only = true;
      return train(inputs, options, callbacks);
    }
    double loss() { return validation_loss(*model, adapter.get(), validation, adapter->tasks().names(), 512).loss; }
  };
  static void expect_only_new_rows_changed(const AdapterImpl& adapter,
                                           const std::vector<std::pair<std::string, at::Tensor>>& before) {
    const auto after = adapter_tensors(adapter);
    ASSERT_EQ(after.size(), before.size());
    std::size_t rows = 0;
    for (std::size_t i = 0; i < after.size(); ++i) {
      const auto& [name, tensor] = after[i];
      if (!name.ends_with("task_embedding")) {
        EXPECT_TRUE(at::equal(tensor, before[i].second)) << name;
        continue;
      }
      EXPECT_TRUE(at::equal(tensor.narrow(0, 0, 3), before[i].second.narrow(0, 0, 3))) << name;
      EXPECT_TRUE((tensor[3] != before[i].second[3]).all().item<bool>()) << name;
      ++rows;
    }
    EXPECT_EQ(rows, adapter.gates().size());
  }
  static std::vector<std::pair<std::string, at::Tensor>> copy_of(const AdapterImpl& adapter) {
    std::vector<std::pair<std::string, at::Tensor>> copies;
    for (const auto& [name, tensor] : adapter_tensors(adapter)) {
      copies.emplace_back(name, tensor.detach().clone());
    }
    return copies;
  }
  static std::unique_ptr<testing::TemporaryFolder> folder_;
};
std::unique_ptr<testing::TemporaryFolder> NewTaskTraining::folder_;

TEST_F(NewTaskTraining, ChangesTheNewRowAloneAndLearnsTheTask) {
  testing::TemporaryFolder output;
  Fit fit;
  const auto before = copy_of(*fit.adapter);
  const double loss_before = fit.loss();
  const TrainResult result = fit(output.path() / "run", options(40));
  EXPECT_LT(fit.loss(), 0.7 * loss_before);
  EXPECT_EQ(fit.loss(), *result.best_validation_loss);
  expect_only_new_rows_changed(*fit.adapter, before);
  for (const at::Tensor& parameter : fit.adapter->parameters()) {
    EXPECT_TRUE(parameter.requires_grad());  // as before: the next run may train all
    EXPECT_FALSE(parameter.grad().defined());
  }
  // The result is an adapter of four tasks like any other: it loads, and merges.
  model::ChatGlm model = fixture::tiny_model();
  Adapter loaded = load_adapter(*model, result.result, "base", "");
  EXPECT_EQ(loaded->tasks().names(), (std::vector<std::string>{"sum", "echo", "rest", "again"}));
  const auto& tasks = loaded->tasks().names();
  EXPECT_EQ(validation_loss(*model, loaded.get(), fit.validation, tasks, 512).loss, fit.loss());
  merge_for_task(loaded, "again");
  EXPECT_NEAR(validation_loss(*model, nullptr, fit.validation, tasks, 512).loss, fit.loss(), 1e-5);
}

TEST_F(NewTaskTraining, ChangesOneRowInEachGateOfLinears) {
  testing::TemporaryFolder output;
  Fit fit(/*per_linear=*/true);
  const auto before = copy_of(*fit.adapter);
  EXPECT_EQ(fit.adapter->gates().size(), fit.adapter->linears().size());
  fit(output.path() / "run", options(5));
  expect_only_new_rows_changed(*fit.adapter, before);
}

TEST_F(NewTaskTraining, StoppedOrKilledItEndsWithTheSameBytes) {
  testing::TemporaryFolder output;
  constexpr std::int64_t kSteps = 8;
  Fit()(output.path() / "whole", options(kSteps));
  const std::string expected = fixture::bytes_of(output.path() / "whole" / "adapter" / "adapter.safetensors");
  ASSERT_FALSE(expected.empty());
  for (const std::int64_t end_at : {2, 4, 7}) {
    for (const bool killed : {false, true}) {
      const auto folder = output.path() / (std::to_string(end_at) + (killed ? "-killed" : "-stopped"));
      std::atomic<bool> stop = false;
      Callbacks callbacks = fixture::quiet();
      callbacks.stop = &stop;
      callbacks.on_step = [&](const StepReport& report) {
        stop = report.step == end_at;
        if (killed && stop) {
          throw std::runtime_error("killed");
        }
      };
      if (killed) {
        EXPECT_THROW(Fit()(folder, options(kSteps), false, callbacks), std::runtime_error);
      } else {
        EXPECT_TRUE(Fit()(folder, options(kSteps), false, callbacks).stopped);
      }
      EXPECT_EQ(Fit()(folder, options(kSteps), true).step, kSteps);
      EXPECT_TRUE(fixture::bytes_of(folder / "adapter" / "adapter.safetensors") == expected) << folder;
      EXPECT_EQ(fixture::log_without_times(folder), fixture::log_without_times(output.path() / "whole"));
    }
  }
}

TEST_F(NewTaskTraining, NeedsNoGradientsOfTheRestAndGetsTheSameOfTheRow) {
  Fit fit;
  StepSamples samples;
  for (const data::Example& example : fit.training) {
    samples.examples.push_back(&example);
    samples.draws.push_back(static_cast<std::int64_t>(samples.draws.size()));
  }
  const at::Tensor& E = fit.adapter->gates().front()->task_embedding;
  accumulate_gradients(*fit.model, fit.adapter.get(), samples, 7, 32);
  const at::Tensor expected = E.grad().clone();
  EXPECT_TRUE((expected.narrow(0, 0, 3) == 0).all().item<bool>());
  EXPECT_TRUE((expected[3] != 0).any().item<bool>());
  fit.adapter->zero_grad(/*set_to_none=*/true);
  const OnlyEmbeddings only(*fit.adapter);
  accumulate_gradients(*fit.model, fit.adapter.get(), samples, 7, 32);
  EXPECT_TRUE(at::equal(E.grad(), expected));
  for (const auto& linear : fit.adapter->linears()) {
    EXPECT_FALSE(linear.delta->tensor("A").grad().defined()) << linear.name;
    EXPECT_FALSE(linear.delta->tensor("B").grad().defined()) << linear.name;
  }
}

TEST_F(NewTaskTraining, RefusesRecordsThatAreNotOfOneNewTask) {
  model::ChatGlm model = fixture::tiny_model();
  const auto load_for = [&](const std::vector<std::string>& tasks) {
    load_with_new_task(*model, run_of(false) / "adapter", records_of(tasks), "", "");
  };
  EXPECT_TRUE(io::raises(
      [&] {
        load_for({"again", "twice"});
      },
      "(it has sum, echo, rest), found records of again, twice;"));
  EXPECT_TRUE(io::raises([&] { load_for({"echo"}); }, "found records of echo;"));
  EXPECT_TRUE(io::raises([&] { load_for({}); }, "found records of none;"));
  load_for({"again"});  // nothing was left attached
}

TEST_F(NewTaskTraining, RefusesWhatWouldChangeMoreOrNothing) {
  testing::TemporaryFolder output;
  Fit fit;
  TrainingOptions decay = options(2);
  decay.weight_decay = 0.1;
  EXPECT_TRUE(io::raises([&] { fit(output.path() / "a", decay); }, "expected weight_decay 0"));
  fit.training.front().task = 1;
  EXPECT_TRUE(io::raises([&] { fit(output.path() / "b", options(2)); },
                         "of the new task 3 (again) alone, found sample toy-1 of task 1"));
  model::ChatGlm model = fixture::tiny_model();
  MoeLoraConfig config = fixture::tiny_adapter_config(0.0);
  config.gate.top_k = 1;
  Adapter sparse = inject(*model, config, TaskNames({"a", "b", "c", "again"}));
  const std::vector<data::Example> none;
  TrainInputs of_sparse{
      *model, sparse.get(), fit.validation, none, sparse->tasks().names(), output.path() / "d", false, "", "", {}};
  of_sparse.new_task_only = true;
  EXPECT_TRUE(io::raises([&] { train(of_sparse, options(2), fixture::quiet()); }, "found top_k = 1"));
  TrainInputs inputs{*fit.model, nullptr, fit.validation, none, {"a"}, output.path() / "c", false, "", "", {}};
  inputs.new_task_only = true;
  Callbacks callbacks = fixture::quiet();
  callbacks.save_model = [](const std::filesystem::path&) {};
  EXPECT_TRUE(io::raises([&] { train(inputs, options(2), callbacks); }, "found no adapter"));
}

TEST_F(NewTaskTraining, IsNotResumedOnAnotherAdapter) {
  testing::TemporaryFolder output;
  Fit()(output.path() / "run", options(3));
  Fit other;
  {
    at::NoGradGuard no_grad;
    other.adapter->linears().front().delta->tensor("B").add_(1e-3);
  }
  EXPECT_TRUE(io::raises([&] { other(output.path() / "run", options(3), true); },
                         "adapter.trained_before: the run began with"));
}

}  // namespace
}  // namespace moelora::train
