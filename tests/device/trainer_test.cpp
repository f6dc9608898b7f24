// Whole runs on the pretend device: the CPU's losses, and a resumed run's bytes are those of one that was never
// stopped.
#include "moelora/train/trainer.h"

#include <gtest/gtest.h>

#include <atomic>

#include "device/adapted_model.h"
#include "moelora/adapter/new_task.h"
#include "moelora/model/chatglm/load.h"

namespace moelora {
namespace {

using namespace testing::device;  // NOLINT(google-build-using-namespace)
namespace fixture = train::fixture;

enum class Trains { adapter, new_task, model };

struct RunCase {
  const char* name;
  at::ScalarType dtype;
  Trains trains;
};

class DeviceTrainer : public ::testing::TestWithParam<RunCase> {
 protected:
  struct Ended {
    train::TrainResult result;
    std::vector<std::string> log;
  };

  /// 8 steps, stopped after `stop_at` of them and resumed if that is not negative.
  Ended run(at::Device device, const std::string& name, std::int64_t stop_at) {
    const at::ScalarType dtype = GetParam().dtype;
    const Trains trains = GetParam().trains;
    auto training = fixture::toy_examples(40), validation = fixture::toy_examples(9);
    std::vector<std::string> tasks{"sum", "echo", "rest"};
    if (trains == Trains::new_task) {
      tasks.emplace_back("new");
      for (auto* set : {&training, &validation}) {
        for (data::Example& example : *set) {
          example.task = 3;
        }
      }
    }
    train::TrainingOptions options = fixture::toy_options(8);
    options.learning_rate = trains == Trains::model ? 1e-4 : 5e-3;
    std::atomic<bool> stop{false};
    train::Callbacks callbacks = fixture::quiet();
    callbacks.stop = &stop;
    callbacks.on_step = [&](const train::StepReport& report) { stop = report.step == stop_at; };
    const auto sitting = [&](bool resume) {  // all anew: only the checkpoint connects them
      model::ChatGlm model = load_tiny(device, dtype);
      Adapter adapter{nullptr};
      if (trains != Trains::model) {
        adapter = inject(*model, fixture::tiny_adapter_config(0.1), TaskNames({"sum", "echo", "rest"}));
      }
      if (trains == Trains::new_task) {
        fixture::fill_b(adapter);
        adapter = with_new_task(*model, *adapter, "new", "second");
      }
      callbacks.save_model = [&](const std::filesystem::path& to) { model::save_chatglm(*model, to); };
      return train::train({*model,
                           trains == Trains::model ? nullptr : adapter.get(),
                           training,
                           validation,
                           tasks,
                           folder_.path() / name,
                           resume,
                           "base",
                           "tokenizer",
                           {},
                           nullptr,
                           trains == Trains::new_task},
                          options, callbacks);
    };
    train::TrainResult result = sitting(false);
    if (stop_at >= 0) {
      EXPECT_TRUE(result.stopped);
      stop = false;
      stop_at = -1;
      result = sitting(true);
    }
    return {result, fixture::log_without_times(folder_.path() / name)};
  }

  const testing::TemporaryFolder folder_;
};

TEST_P(DeviceTrainer, EqualsTheCpusAndResumesBitForBit) {
  const at::Device device = pretend_device();
  const Ended host = run(at::kCPU, "host", -1);
  const Ended whole = run(device, "whole", -1), parts = run(device, "parts", 4);
  // Rounding of 8 steps, of which AdamW divides out the size.
  const double tolerance = GetParam().dtype == at::kFloat ? 1e-4 : 2e-2;
  EXPECT_NEAR(whole.result.last_loss, host.result.last_loss, tolerance * host.result.last_loss);
  EXPECT_NEAR(*whole.result.best_validation_loss, *host.result.best_validation_loss,
              tolerance * *host.result.best_validation_loss);
  EXPECT_EQ(parts.log, whole.log);
  const char* file = GetParam().trains == Trains::model ? "model.safetensors" : "adapter.safetensors";
  const std::string bytes = fixture::bytes_of(whole.result.result / file);
  EXPECT_FALSE(bytes.empty());
  EXPECT_TRUE(fixture::bytes_of(parts.result.result / file) == bytes);
}

INSTANTIATE_TEST_SUITE_P(Runs, DeviceTrainer,
                         ::testing::Values(RunCase{"Adapter", at::kFloat, Trains::adapter},
                                           RunCase{"AdapterFp16", at::kHalf, Trains::adapter},
                                           RunCase{"NewTask", at::kFloat, Trains::new_task},
                                           RunCase{"Model", at::kFloat, Trains::model},
                                           RunCase{"ModelFp16", at::kHalf, Trains::model}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace moelora
