// Validation losses that are not finite.

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/raises.h"
#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/tokenizer.h"
#include "moelora/train/diverged.h"
#include "moelora/train/run_data.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
using fixture::ToyRun;
using io::raises;

constexpr std::int64_t kBadId = 33;  // a token that no toy sample has

void put_into_embedding(model::ChatGlm& model, std::int64_t id, double value) {
  at::NoGradGuard no_grad;
  model->transformer->word_embeddings->weight[id] = value;
}

/// Validations of some steps see a sample whose loss is not finite.
class BadValidations {
 public:
  BadValidations(double value, std::set<std::int64_t> steps) : value_(value), steps_(std::move(steps)) {
    run_.validation[4].ids.front() = kBadId;
    run_.callbacks.on_step = [this](const StepReport& report) {
      put_into_embedding(run_.model, kBadId, steps_.contains(report.step) ? value_ : 0.0);
    };
  }
  TrainResult operator()(const fs::path& output, std::int64_t steps, bool resume = false) {
    return run_(output, fixture::toy_options(steps), resume);
  }

 private:
  double value_;
  std::set<std::int64_t> steps_;
  ToyRun run_;
};

std::vector<nlohmann::ordered_json> validations_in_log(const fs::path& output) {
  std::vector<nlohmann::ordered_json> lines;
  for (const std::string& line : fixture::log_without_times(output)) {
    if (auto json = nlohmann::ordered_json::parse(line); json.contains("validation_loss")) {
      lines.push_back(json);
    }
  }
  return lines;
}

class NotFinite : public ::testing::TestWithParam<double> {};

TEST_P(NotFinite, IsNeverTheBest) {
  testing::TemporaryFolder folder;
  const fs::path output = folder.path() / "run";
  TrainResult result;
  const std::string said = fixture::said_by([&] { result = BadValidations(GetParam(), {3, 9})(output, 12); });
  EXPECT_EQ(result.step, 12);
  EXPECT_EQ(result.best_step, 12);
  ASSERT_TRUE(result.best_validation_loss.has_value());
  EXPECT_TRUE(std::isfinite(*result.best_validation_loss));
  for (const char* part : {"step 3: the validation loss is not finite", "step 9: the validation loss is not finite",
                           "in samples toy-4 of task echo"}) {
    EXPECT_NE(said.find(part), std::string::npos) << part << "\nin\n" << said;
  }
  const auto lines = validations_in_log(output);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_TRUE(lines[0]["validation_loss"].is_null());
  EXPECT_EQ(lines[0]["best"], false);
  EXPECT_TRUE(lines[0]["validation_loss_by_task"]["echo"].is_null());
  EXPECT_TRUE(lines[0]["validation_loss_by_task"]["sum"].is_number());
  EXPECT_EQ(lines[0]["not_finite"].dump(), R"({"echo":["toy-4"]})");
  EXPECT_FALSE(lines[1].contains("not_finite"));
  EXPECT_EQ(lines[1]["best"], true);
}

TEST_P(NotFinite, LeavesCheckpointsThatCanBeResumed) {
  testing::TemporaryFolder folder;
  const fs::path whole = folder.path() / "whole";
  BadValidations(GetParam(), {3, 9})(whole, 12);
  const fs::path output = folder.path() / "run";
  for (const std::int64_t steps : {3, 6, 9, 12}) {
    if (steps == 3) {
      // The last validation of this short run, and none is finite: no result, but nothing is lost.
      EXPECT_TRUE(raises(
          [&] {
            BadValidations(GetParam(), {3, 9})(output, steps);
          },
          "the validation loss of step 3 is not finite, and there is none that is, in samples toy-4 of "
          "task echo"));
      EXPECT_FALSE(fs::exists(output / "adapter"));
    } else {
      EXPECT_EQ(BadValidations(GetParam(), {3, 9})(output, steps, true).best_step, steps == 9 ? 6 : steps);
    }
  }
}

TEST_P(NotFinite, TwiceInARowEndsTheRun) {
  testing::TemporaryFolder folder;
  const fs::path output = folder.path() / "run";
  const auto again = [&] { BadValidations(GetParam(), {6, 9, 12})(output, 12, true); };
  EXPECT_TRUE(raises(
      [&] {
        BadValidations(GetParam(), {6, 9, 12})(output, 12);
      },
      "the validation loss of step 9 is not finite, as those of the 2 validations up to here, in samples "
      "toy-4 of task echo; look at these records, or lower the learning rate from an earlier checkpoint"));
  EXPECT_FALSE(fs::exists(output / "adapter"));
  EXPECT_EQ(CheckpointFolder(output / "checkpoints").read(9).validations_not_finite, 2);
  EXPECT_EQ(CheckpointFolder(output / "checkpoints").read(9).best_step, 3);
  EXPECT_TRUE(raises(again, "the validation loss of step 12 is not finite"));
  EXPECT_THROW(again(), TrainingDiverged);
  EXPECT_TRUE(raises(again, "the validation loss of step 12 is not finite")) << "resumed after its last step";
  EXPECT_EQ(BadValidations(GetParam(), {})(output, 15, true).best_step, 15) << "later ones are finite";
}

INSTANTIATE_TEST_SUITE_P(Values, NotFinite,
                         ::testing::Values(std::numeric_limits<double>::quiet_NaN(),
                                           std::numeric_limits<double>::infinity()));

TEST(NotFiniteState, OfAnEarlierVersionIsReadAsNone) {
  RunState state;
  state.step = 6;
  state.identity.options = "{}";
  state.best_loss = 1.5;
  state.best_step = 3;
  nlohmann::ordered_json json = state.to_json();
  json["format_version"] = 1;
  json["best_loss"] = nullptr;
  json.erase("validations_not_finite");
  const RunState read = RunState::from_json(json);
  EXPECT_FALSE(read.best_loss.has_value());
  EXPECT_EQ(read.best_step, 0);
  EXPECT_EQ(read.validations_not_finite, 1);
  EXPECT_EQ(RunState::from_json(read.to_json()).to_json(), read.to_json());
}

// The records and the configuration of a reported case: only validation records use the piece "5", whose embedding is
// not a number.
TEST(NotFiniteRecords, AreNamedAndEndTheRunInsteadOfWinning) {
  const fs::path records = testing::fixtures() / "cases" / "x-nan-validation";
  auto json = io::read_json_file(records / "nan-valid-config.json");
  json["model"]["path"] = (testing::fixtures() / "chatglm-tiny").string();
  json["data"]["train"] = (records / "nan-train.json").string();
  json["data"]["validation"] = (records / "nan-valid.json").string();
  const TrainConfig config = TrainConfig::from_json(json);
  const model::ChatGlmTokenizer tokenizer(config.model.path);
  model::ChatGlm model = fixture::tiny_model();
  const auto ids = tokenizer.encode("天5");
  ASSERT_EQ(tokenizer.piece(ids.back()), "5");
  put_into_embedding(model, ids.back(), std::numeric_limits<double>::quiet_NaN());
  const RunData data = read_run_data(config.data, config.training.seed);
  const TaskNames tasks(data::task_names_of(data.train));
  const auto training = encode_examples(data.train, tasks, tokenizer, config.data.encode, "training");
  const auto validation = encode_examples(data.validation, tasks, tokenizer, config.data.encode, "validation");
  testing::TemporaryFolder folder;
  const fs::path output = folder.path() / "run";
  const auto run = [&](bool resume) {
    Adapter adapter = inject(*model, config.adapter, tasks);
    try {
      train({*model, adapter.get(), training, validation, tasks.names(), output, resume, "base", "", {}},
            config.training, fixture::quiet());
    } catch (...) {
      eject(adapter);
      throw;
    }
  };
  std::string bad;
  for (std::size_t i = 0; i < 2; ++i) {
    bad += (i == 0 ? "" : ", ") + validation[i].id;
  }
  EXPECT_TRUE(raises([&] { run(false); },
                     "the validation loss of step 6 is not finite, as those of the 2 validations "
                     "up to here, in samples " +
                         bad + " of task MedDG"));
  EXPECT_FALSE(fs::exists(output / "adapter"));
  for (const std::string& line : fixture::log_without_times(output)) {
    EXPECT_FALSE(nlohmann::ordered_json::parse(line).value("best", false)) << line;
  }
  EXPECT_TRUE(raises([&] { run(true); }, "the validation loss of step 9 is not finite"))
      << "the checkpoints are usable";
}

}  // namespace
}  // namespace moelora::train
