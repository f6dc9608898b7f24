// The trainer with modules of the language model that are trained whole (modules_to_save), and with an adapter that an
// evaluation left in eval mode.

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <atomic>

#include "moelora/adapter/adapter_file.h"
#include "moelora/train/trainer.h"
#include "train/fixture.h"

namespace moelora::train {
namespace {

const std::vector<std::string> kToyTasks{"sum", "echo", "rest"};

struct SavedRun {
  explicit SavedRun(std::vector<std::string> modules_to_save) {
    MoeLoraConfig config = fixture::tiny_adapter_config(0.1);
    config.modules_to_save = std::move(modules_to_save);
    adapter = inject(*model, config, TaskNames(kToyTasks));
  }
  TrainResult operator()(const std::filesystem::path& output, std::int64_t steps, bool resume = false) {
    TrainingOptions options = fixture::toy_options(12);
    Callbacks callbacks = fixture::quiet();
    std::atomic<bool> stop{false};
    callbacks.stop = &stop;
    callbacks.on_step = [&](const StepReport& report) { stop = report.step == steps && steps < options.steps; };
    return train({*model, adapter.get(), training, validation, kToyTasks, output, resume, base, "tokenizer", {}},
                 options, callbacks);
  }
  double loss(Adapter& of, model::ChatGlm& on) const {
    return validation_loss(*on, of.get(), validation, kToyTasks, 512).loss;
  }
  std::vector<data::Example> training = fixture::toy_examples(40);
  std::vector<data::Example> validation = fixture::toy_examples(9);
  model::ChatGlm model = fixture::tiny_model();
  const std::string base = model::base_fingerprint(*model);
  Adapter adapter{nullptr};
};

std::string tensors_of(const std::filesystem::path& adapter) {
  return fixture::bytes_of(adapter / "adapter.safetensors");
}

TEST(SavedModulesOfALanguageModel, AreTrainedResumedAndLoaded) {
  testing::TemporaryFolder folder;
  SavedRun run({"lm_head", "final_layernorm"});
  const at::Tensor head = run.model->lm_head->weight.detach().clone();
  const at::Tensor norm = run.model->transformer->final_layernorm->weight.detach().clone();
  const at::Tensor embedding = run.model->transformer->word_embeddings->weight.detach().clone();
  const TrainResult result = run(folder.path() / "run", 12);
  EXPECT_FALSE(at::equal(run.model->lm_head->weight, head));
  EXPECT_FALSE(at::equal(run.model->transformer->final_layernorm->weight, norm));
  EXPECT_TRUE(at::equal(run.model->transformer->word_embeddings->weight, embedding));

  // Stopped and resumed: the same bytes.
  SavedRun stopped({"lm_head", "final_layernorm"});
  EXPECT_TRUE(stopped(folder.path() / "stopped", 7).stopped);
  SavedRun resumed({"lm_head", "final_layernorm"});
  const TrainResult second = resumed(folder.path() / "stopped", 12, /*resume=*/true);
  EXPECT_EQ(second.step, 12);
  EXPECT_EQ(tensors_of(second.result), tensors_of(result.result));

  // Another process: the base as it is on the disk, the head from the adapter's file.
  model::ChatGlm fresh = fixture::tiny_model();
  Adapter loaded = load_adapter(*fresh, result.result, model::base_fingerprint(*fresh), "tokenizer");
  EXPECT_EQ(run.loss(loaded, fresh), *result.best_validation_loss);
  eject(loaded);
  EXPECT_EQ(model::base_fingerprint(*fresh), run.base);
}

TEST(TrainedAdapter, IsInTrainModeWhateverAnEvaluationLeft) {
  testing::TemporaryFolder folder;
  SavedRun train_mode({});
  const TrainResult expected = train_mode(folder.path() / "a", 12);
  SavedRun eval_mode({});
  eval_mode.adapter->eval();
  const TrainResult found = eval_mode(folder.path() / "b", 12);
  EXPECT_EQ(tensors_of(found.result), tensors_of(expected.result));
}

}  // namespace
}  // namespace moelora::train
