#include "moelora/train/begin_from.h"

#include <gtest/gtest.h>

#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
using fixture::ToyRun;
using io::raises;

std::vector<data::Record> one_record_of_each(const std::vector<std::string>& tasks) {
  std::vector<data::Record> records(tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    records[i].task = tasks[i];
  }
  return records;
}

class BeginFrom : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<testing::TemporaryFolder>();
    ToyRun()(folder_->path() / "first", fixture::toy_options(6));
  }
  static void TearDownTestSuite() { folder_.reset(); }
  static fs::path trained() { return folder_->path() / "first" / "adapter"; }

  /// A run that begins with the trained adapter's values.
  static TrainResult more(const fs::path& output, bool resume = false, const fs::path& from = trained()) {
    ToyRun run;
    eject(run.adapter);
    run.adapter = load_to_train_on(*run.model, from, one_record_of_each({"sum", "echo", "rest"}), "base", "tokenizer");
    return run(output, fixture::toy_options(6), resume,
               [&](TrainInputs& in) { in.begins_from = fingerprint_of(*run.adapter); });
  }
  static std::unique_ptr<testing::TemporaryFolder> folder_;
};
std::unique_ptr<testing::TemporaryFolder> BeginFrom::folder_;

TEST_F(BeginFrom, StartsAtTheValuesOfTheAdapter) {
  testing::TemporaryFolder output;
  ToyRun fresh;
  eject(fresh.adapter);
  Adapter loaded =
      load_to_train_on(*fresh.model, trained(), one_record_of_each({"echo", "sum", "rest"}), "base", "tokenizer");
  EXPECT_EQ(loaded->tasks().names(), (std::vector<std::string>{"sum", "echo", "rest"}));
  const auto loss = [&](const AdapterImpl* adapter) {
    return validation_loss(*fresh.model, adapter, fresh.validation, loaded->tasks().names(), 512).loss;
  };
  const double before = loss(loaded.get());
  EXPECT_NE(fingerprint_of(*loaded), fingerprint_of(*fixture::ToyRun().adapter));
  const TrainResult result = more(output.path() / "run");
  EXPECT_LT(*result.best_validation_loss, before);
  const auto first = nlohmann::ordered_json::parse(fixture::log_without_times(output.path() / "run").front());
  const auto from_scratch =
      nlohmann::ordered_json::parse(fixture::log_without_times(folder_->path() / "first").front());
  EXPECT_LT(first["loss"], from_scratch["loss"]);
}

TEST_F(BeginFrom, IsResumedOnTheSameAdapterAlone) {
  testing::TemporaryFolder output;
  more(output.path() / "whole");
  more(output.path() / "run");
  fs::remove_all(output.path() / "run" / "checkpoints" / "step-6");
  more(output.path() / "run", true);
  EXPECT_TRUE(fixture::bytes_of(output.path() / "run" / "adapter" / "adapter.safetensors") ==
              fixture::bytes_of(output.path() / "whole" / "adapter" / "adapter.safetensors"));
  EXPECT_TRUE(raises([&] { more(output.path() / "run", true, output.path() / "whole" / "adapter"); },
                     "adapter.begins_from: the run began with"));
  EXPECT_TRUE(raises([&] { ToyRun()(output.path() / "run", fixture::toy_options(6), true); },
                     "adapter.begins_from: the run began with"));
}

TEST_F(BeginFrom, TakesTheConfigurationOfTheAdapter) {
  TrainConfig config;
  config.adapter_from = trained().string();
  take_adapter_config(config);
  EXPECT_EQ(config.adapter.rank, 8);
  EXPECT_EQ(config.adapter.num_experts, 4);
  config.adapter_given = {{"rank", 8}, {"alpha", 16}, {"balance_loss", 0.0}};
  take_adapter_config(config);
  config.adapter_given = {{"rank", 8}, {"num_experts", 2}, {"dropout", 0.5}};
  for (const char* part :
       {"adapter.num_experts: that adapter has 4, found 2", "adapter.dropout: that adapter has 0.1"}) {
    EXPECT_TRUE(raises([&] { take_adapter_config(config); }, part));
  }
  config.adapter_given = {{"ranks", 8}};
  EXPECT_TRUE(raises([&] { take_adapter_config(config); }, "did you mean \"rank\"?"));
  config.adapter_from = "no/such/adapter";
  EXPECT_TRUE(raises([&] { take_adapter_config(config); }, "no adapter folder no/such/adapter"));
}

TEST_F(BeginFrom, RefusesAnotherBaseAndTasksThatTheAdapterDoesNotHave) {
  model::ChatGlm model = fixture::tiny_model();
  const auto load = [&](const std::vector<std::string>& tasks, const std::string& base) {
    return load_to_train_on(*model, trained(), one_record_of_each(tasks), base, "tokenizer");
  };
  EXPECT_TRUE(raises(
      [&] {
        load({"sum", "more", "other"}, "base");
      },
      "does not have the tasks of some records: more, other (it has sum, echo, rest)"));
  EXPECT_TRUE(raises([&] { load({"sum", "echo", "rest"}, "another"); }, "belongs to another base"));
  const std::string said = fixture::said_by([&] { load({"echo"}, "base"); });
  EXPECT_NE(said.find("no training record is of these tasks"), std::string::npos) << said;
  EXPECT_NE(said.find(": sum, rest; their answers change all the same"), std::string::npos) << said;
}

}  // namespace
}  // namespace moelora::train
