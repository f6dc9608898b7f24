// Resuming: from what, with what changed, and that a run that is refused stays as it was.

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <limits>
#include <new>

#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/folder_lock.h"
#include "moelora/train/run_folder.h"
#include "moelora/train/trainer.h"
#include "train/toy_run.h"

namespace moelora::train {
namespace {

namespace fs = std::filesystem;
using fixture::ToyRun;
using io::raises;

/// 12 steps with checkpoints after 3, 6, 9 and 12, all of them kept.
TrainingOptions all_kept() {
  TrainingOptions options = fixture::toy_options(12);
  options.keep_checkpoints = 9;
  return options;
}

fs::path result_of(const fs::path& output) { return output / "adapter" / "adapter.safetensors"; }

/// A run whose loss rises after step 3: that is its best one, whatever comes.
struct WorseningRun : ToyRun {
  WorseningRun() {
    callbacks.on_step = [this](const StepReport& report) {
      if (report.step > 3) {
        const at::NoGradGuard no_grad;
        model->lm_head->weight.mul_(2.0);  // surer and surer of what is wrong
      }
    };
  }
};

/// A finished run of all_kept(), made once and copied for each test.
class Resuming : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = std::make_unique<testing::TemporaryFolder>();
    ToyRun()(shared_->path() / "whole", all_kept());
  }
  static void TearDownTestSuite() { shared_.reset(); }
  void SetUp() override { fs::copy(whole(), run_, fs::copy_options::recursive); }

  static fs::path whole() { return shared_->path() / "whole"; }
  fs::path checkpoint(int step) const { return run_ / "checkpoints" / ("step-" + std::to_string(step)); }
  void expect_as_undisturbed() const {
    EXPECT_TRUE(fixture::bytes_of(result_of(run_)) == fixture::bytes_of(result_of(whole())));
    EXPECT_EQ(fixture::log_without_times(run_), fixture::log_without_times(whole()));
  }
  /// `action` raises an error with `part` and leaves every byte of the run as it was.
  template <typename Action>
  void expect_refused(Action&& action, const std::string& part) const {
    const auto before = fixture::files_below(run_);
    EXPECT_TRUE(raises(action, part));
    EXPECT_TRUE(fixture::files_below(run_) == before) << "files were changed";
  }

  testing::TemporaryFolder folder_;
  fs::path run_ = folder_.path() / "run";
  static std::unique_ptr<testing::TemporaryFolder> shared_;
};
std::unique_ptr<testing::TemporaryFolder> Resuming::shared_;

TEST_F(Resuming, NamesEveryCheckpointThatCannotBeUsedAndTouchesNothing) {
  for (const int step : {3, 6, 9, 12}) {
    std::ofstream(checkpoint(step) / "state.json") << "{\"format_version\": 9, \"step\": " << step << "}";
  }
  fs::remove(checkpoint(6) / "SHA256SUMS");
  fs::resize_file(checkpoint(9) / "state.json", 5);
  fs::remove(checkpoint(3) / "state.json");
  for (const char* part : {"step-12 cannot be used: expected format_version 1 or 2, found 9", "step-9 cannot be used",
                           "step-6 cannot be used", "step-3 cannot be used", "nothing was changed"}) {
    expect_refused([&] { ToyRun()(run_, all_kept(), true); }, part);
  }
}

TEST_F(Resuming, BeginsAnewOnlyWhereThereIsNoCheckpoint) {
  fs::remove_all(run_ / "checkpoints");
  const std::string said = fixture::said_by([&] { EXPECT_EQ(ToyRun()(run_, all_kept(), true).step, 12); });
  expect_as_undisturbed();
  // The result that was there belonged to a run that nothing is left of.
  EXPECT_NE(said.find("the result in adapter"), std::string::npos) << said;
  EXPECT_TRUE(fs::exists(run_ / "set-aside-1" / "adapter" / "adapter.safetensors"));
  EXPECT_TRUE(fs::exists(run_ / "set-aside-1" / "log.jsonl"));
}

TEST_F(Resuming, RefusesAFolderThatIsNoRun) {
  for (const auto& [name, files] : std::map<std::string, std::vector<std::string>>{
           {"model", {"config.json", "ice_text.model", "model.safetensors"}},
           {"adapter", {"adapter.json", "adapter.safetensors"}},
           {"notes", {"todo.txt"}},
           {"other-log", {"log.jsonl"}},
           {"other-checkpoints", {"checkpoints/epoch-1.pt"}},
           {"config-alone", {"config.json"}}}) {
    const fs::path foreign = folder_.path() / name;
    for (const std::string& file : files) {
      fs::create_directories((foreign / file).parent_path());
      std::ofstream(foreign / file) << "{\"hidden_size\": 64}\n";
    }
    const auto before = fixture::files_below(foreign);
    EXPECT_TRUE(raises([&] { ToyRun()(foreign, all_kept(), true); }, "is not the folder of a run")) << name;
    EXPECT_TRUE(fixture::files_below(foreign) == before) << name;
    EXPECT_TRUE(raises([&] { ToyRun()(foreign, all_kept(), true, [](auto& in) { in.resume_from = 3; }); },
                       "is not the folder of a run"))
        << name;
  }
  std::ofstream(folder_.path() / "file") << "x";
  EXPECT_TRUE(raises([&] { check_run_folder(folder_.path() / "file"); }, "found a file"));
}

TEST_F(Resuming, TakesAFolderThatAKilledRunLeftAtItsBeginning) {
  const fs::path begun = folder_.path() / "begun";
  fs::create_directories(begun / "checkpoints" / "step-3.tmp-1-0");
  std::ofstream(begun / ".lock") << "moelora train (process 1 on x)";
  std::ofstream(begun / "config.json") << R"({"data": {}, "training": {}})";
  std::ofstream(begun / "config.json.tmp-1-0") << "{";
  check_run_folder(begun);
  std::ofstream(begun / "log.jsonl") << R"({"step":1,"lo)";  // cut off by a full disk
  check_run_folder(begun);
  std::ofstream(begun / "log.jsonl");
  check_run_folder(begun);
  check_run_folder(folder_.path() / "missing");
}

TEST_F(Resuming, WritesNothingBeforeAllChecks) {
  TrainingOptions changed = all_kept();
  changed.batch_size = 3;
  int begun = 0;
  const auto run = [&](const TrainingOptions& options) {
    ToyRun toy;
    toy.callbacks.on_begin = [&] { ++begun; };
    toy(run_, options, true);
  };
  expect_refused([&] { run(changed); }, "training.batch_size: the run began with 6, found 3");
  EXPECT_EQ(begun, 0);
  run(all_kept());
  EXPECT_EQ(begun, 1);
}

TEST_F(Resuming, IsRefusedWhileAnotherWritesToTheFolder) {
  const io::FolderLock lock(run_, "another program");
  expect_refused([&] { ToyRun()(run_, all_kept(), true); }, "is in use by another program (process ");
  EXPECT_TRUE(raises([&] { ToyRun()(run_, all_kept()); }, "is in use by another program"));
  EXPECT_EQ(ToyRun()(run_, all_kept(), true, [](auto& in) { in.locked = true; }).step, 12);
}

TEST_F(Resuming, GoesBackToTheNewestWholeCheckpointAndSaysWhy) {
  const std::vector<std::pair<std::string, std::function<void(const fs::path&)>>> damages{
      {"adapter/adapter.safetensors is damaged",
       [](const fs::path& at) { fixture::flip_bit(at / "adapter" / "adapter.safetensors", 100); }},
      {"adapter/adapter.json is damaged",
       [](const fs::path& at) { fixture::flip_bit(at / "adapter" / "adapter.json", 40); }},
      {"optimizer.safetensors is damaged",
       [](const fs::path& at) {
         fs::resize_file(at / "optimizer.safetensors", fs::file_size(at / "optimizer.safetensors") / 2);
       }},
      {"optimizer.safetensors is missing", [](const fs::path& at) { fs::remove(at / "optimizer.safetensors"); }},
      {"state.json is damaged", [](const fs::path& at) { fixture::flip_bit(at / "state.json", 30); }},
      {"SHA256SUMS is damaged", [](const fs::path& at) { fs::resize_file(at / "SHA256SUMS", 20); }},
      {"SHA256SUMS is damaged", [](const fs::path& at) { std::ofstream(at / "SHA256SUMS"); }},
      {"SHA256SUMS is missing", [](const fs::path& at) { fs::remove(at / "SHA256SUMS"); }},
      {"state.json is of step 9", [](const fs::path& at) {
         fs::remove_all(at);
         fs::copy(at.parent_path() / "step-9", at, fs::copy_options::recursive);
       }}};
  int number = 0;
  for (const auto& [text, damage] : damages) {
    run_ = folder_.path() / ("run-" + std::to_string(number++));
    fs::copy(whole(), run_, fs::copy_options::recursive);
    damage(checkpoint(12));
    const std::string said = fixture::said_by([&] { ToyRun()(run_, all_kept(), true); });
    EXPECT_NE(said.find("step-12 cannot be used: "), std::string::npos) << said;
    EXPECT_NE(said.find(text), std::string::npos) << text << "\nin\n" << said;
    EXPECT_NE(said.find("going back to the newest checkpoint that is whole"), std::string::npos) << said;
    EXPECT_NE(said.find("step-9"), std::string::npos) << said;
    expect_as_undisturbed();
    EXPECT_TRUE(fs::exists(run_ / "set-aside-1" / "checkpoints" / "step-12"));
  }
}

// The result is loaded from the best checkpoint at the end: it has to be whole too.
TEST_F(Resuming, GoesBackBeforeABestCheckpointThatIsDamaged) {
  const TrainingOptions options = all_kept();
  run_ = folder_.path() / "worsening";
  WorseningRun()(run_, options);
  ASSERT_EQ(fixture::json_of(checkpoint(12) / "state.json")["best_step"], 3);
  const std::string expected = fixture::bytes_of(result_of(run_));
  fixture::flip_bit(checkpoint(3) / "adapter" / "adapter.safetensors", 7);
  expect_refused([&] { WorseningRun()(run_, options, true); },
                 "step-12 cannot be used: of its best one, step-3, adapter/adapter.safetensors is damaged");
  expect_refused([&] { WorseningRun()(run_, options, true); }, "(--resume-from step-12)");
  // Asked for by name it goes on without the best one.
  const std::string said = fixture::said_by(
      [&] { EXPECT_EQ(ToyRun()(run_, options, false, [](auto& in) { in.resume_from = 9; }).best_step, 12); });
  EXPECT_NE(said.find("the best checkpoint so far, step-3, cannot be used"), std::string::npos) << said;
  EXPECT_FALSE(fixture::bytes_of(result_of(run_)) == expected);
}

TEST_F(Resuming, ChecksTheBestCheckpointBeforeItBecomesTheResult) {
  run_ = folder_.path() / "worsening";
  WorseningRun run;
  run.callbacks.on_step = [&, worsen = run.callbacks.on_step](const StepReport& report) {
    worsen(report);
    if (report.step == 11) {
      fixture::flip_bit(checkpoint(3) / "adapter" / "adapter.safetensors", 7);
    }
  };
  EXPECT_TRUE(raises([&] { run(run_, all_kept()); }, "the best checkpoint, "));
  EXPECT_FALSE(fs::exists(run_ / "adapter"));
}

TEST_F(Resuming, OfCheckpointsWithoutChecksumsGoesOnAsBefore) {
  const auto as_earlier_version = [&](int step) {
    fs::remove(checkpoint(step) / "SHA256SUMS");
    auto json = fixture::json_of(checkpoint(step) / "state.json");
    json["format_version"] = 1;
    for (const char* key : {"changes", "validations_not_finite"}) {
      json.erase(key);
    }
    json["run"].erase("dtype");
    json["run"].erase("device");
    std::ofstream(checkpoint(step) / "state.json") << json.dump(2);
  };
  for (const int step : {3, 6, 9, 12}) {
    as_earlier_version(step);
  }
  fs::remove_all(checkpoint(12));
  ToyRun()(run_, all_kept(), true);
  expect_as_undisturbed();
  // What they do have is checked: the adapter's own checksum, and that files are not cut off.
  fs::remove_all(checkpoint(12));
  as_earlier_version(9);
  fixture::flip_bit(checkpoint(9) / "adapter" / "adapter.safetensors", 50);
  fs::resize_file(checkpoint(6) / "optimizer.safetensors", 1000);
  const std::string said = fixture::said_by([&] { ToyRun()(run_, all_kept(), true); });
  EXPECT_NE(said.find("step-9 cannot be used: adapter/adapter.safetensors is damaged"), std::string::npos) << said;
  EXPECT_NE(said.find("step-6 cannot be used: "), std::string::npos) << said;
  expect_as_undisturbed();
}

TEST_F(Resuming, OfAnotherTypeOfNumbersIsRefusedUnlessAskedFor) {
  const auto in_bfloat16 = [&](const std::set<std::string>& allowed) {
    ToyRun toy;
    toy.model->to(at::kBFloat16);
    toy(run_, all_kept(), true, [&](TrainInputs& in) { in.allowed_changes = allowed; });
  };
  fs::remove_all(checkpoint(12));
  expect_refused(
      [&] { in_bfloat16({}); },
      "model.dtype: the run began with \"float32\", found \"bfloat16\" (--set model.dtype=float32 restores it, "
      "--allow-change dtype changes it)");
  expect_refused([&] { in_bfloat16({"device"}); }, "model.dtype: the run began with");
  const std::string said = fixture::said_by([&] { in_bfloat16({"dtype"}); });
  EXPECT_NE(said.find("model.dtype: the run began with \"float32\", found \"bfloat16\"; it holds from step 10 on"),
            std::string::npos)
      << said;
  const auto changes = fixture::json_of(run_ / "adapter" / "adapter.json")["provenance"]["changes"];
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0]["key"], "model.dtype");
  EXPECT_EQ(changes[0]["step"], 9);
  EXPECT_EQ(changes[0]["after"], "bfloat16");
}

TEST_F(Resuming, LeavesFreeWhatChangesNothingThatIsLearned) {
  fs::remove_all(checkpoint(12));
  TrainingOptions options = all_kept();
  options.memory_budget_gb = 30.0;
  options.log_every = 4;
  options.checkpoint_every = 2;
  options.validate_every = 3;
  options.keep_checkpoints = 1;
  ToyRun()(run_, options, true);
  EXPECT_TRUE(fixture::bytes_of(result_of(run_)) == fixture::bytes_of(result_of(whole())));
  EXPECT_FALSE(fixture::json_of(run_ / "adapter" / "adapter.json")["provenance"].contains("changes"));

  run_ = folder_.path() / "other-micro-batches";
  fs::copy(whole(), run_, fs::copy_options::recursive);
  fs::remove_all(checkpoint(12));
  options = all_kept();
  options.micro_batch_tokens = 16;
  const std::string said = fixture::said_by([&] { ToyRun()(run_, options, true); });
  EXPECT_NE(said.find("training.micro_batch_tokens: the run began with 32, found 16: results may differ in the last"),
            std::string::npos)
      << said;
}

TEST_F(Resuming, ChangesTheCourseWithAWarningInTheLogAndTheProvenance) {
  fs::remove_all(checkpoint(12));
  TrainingOptions options = all_kept();
  options.learning_rate = 1e-3;
  options.schedule = Schedule::constant;
  options.warmup_steps = 0;
  options.max_grad_norm = 0.5;
  options.steps = 13;
  options.weight_decay = 0.01;
  options.beta1 = 0.8;
  options.beta2 = 0.99;
  options.epsilon = 1e-7;
  const std::string said = fixture::said_by([&] { EXPECT_EQ(ToyRun()(run_, options, true).step, 13); });
  EXPECT_NE(said.find("training.learning_rate: the run began with 0.005, found 0.001; it holds from step 10 on"),
            std::string::npos)
      << said;
  const auto changes = fixture::json_of(run_ / "adapter" / "adapter.json")["provenance"]["changes"];
  EXPECT_EQ(changes.size(), 9u) << changes.dump(2);
  std::vector<nlohmann::ordered_json> in_log;
  for (const std::string& line : fixture::log_without_times(run_)) {
    if (auto json = nlohmann::ordered_json::parse(line); json.contains("changes")) {
      in_log.push_back(json);
    } else if (json.contains("lr") && json["step"] > 9) {
      EXPECT_EQ(json["lr"], 1e-3);
    }
  }
  ASSERT_EQ(in_log.size(), 1u);
  EXPECT_EQ(in_log[0]["step"], 9);
  EXPECT_EQ(in_log[0]["changes"], changes);

  // They stay part of the run when it is resumed again.
  fs::remove_all(checkpoint(13));
  ToyRun()(run_, options, true);
  EXPECT_EQ(fixture::json_of(run_ / "adapter" / "adapter.json")["provenance"]["changes"], changes);
}

TEST_F(Resuming, RefusesFewerStepsThanAreDone) {
  TrainingOptions options = all_kept();
  options.steps = 7;
  expect_refused([&] { ToyRun()(run_, options, true); }, "training.steps of at least 12, the steps that are done");
  EXPECT_EQ(ToyRun()(run_, options, true, [](auto& in) { in.resume_from = 6; }).step, 7);
}

TEST_F(Resuming, FromANamedCheckpointEndsAsAnUndisturbedRun) {
  for (const int step : {3, 6, 9}) {
    run_ = folder_.path() / ("from-" + std::to_string(step));
    fs::copy(whole(), run_, fs::copy_options::recursive);
    const std::string said =
        fixture::said_by([&] { ToyRun()(run_, all_kept(), true, [&](auto& in) { in.resume_from = step; }); });
    expect_as_undisturbed();
    EXPECT_NE(said.find("step-12"), std::string::npos) << said;
    const fs::path aside = run_ / "set-aside-1";
    EXPECT_TRUE(fixture::bytes_of(aside / "log.jsonl") == fixture::bytes_of(whole() / "log.jsonl"));
    for (int later = step + 3; later <= 12; later += 3) {
      EXPECT_TRUE(fs::exists(aside / "checkpoints" / ("step-" + std::to_string(later)) / "state.json")) << later;
    }
    EXPECT_TRUE(fs::exists(aside / "adapter" / "adapter.safetensors"));
    // Once more: nothing of the first time is overwritten.
    ToyRun()(run_, all_kept(), true, [&](auto& in) { in.resume_from = step; });
    expect_as_undisturbed();
    EXPECT_TRUE(fs::exists(run_ / "set-aside-2" / "log.jsonl"));
  }
}

TEST_F(Resuming, FromANamedCheckpointNeedsOneThatIsWhole) {
  const auto from = [&](std::int64_t step) {
    return [this, step] { ToyRun()(run_, all_kept(), true, [&](auto& in) { in.resume_from = step; }); };
  };
  expect_refused(from(5),
                 "cannot resume from step-5: there is no such checkpoint; nothing was changed, there are "
                 "step-3, step-6, step-9, step-12");
  fixture::flip_bit(checkpoint(6) / "optimizer.safetensors", 11);
  expect_refused(from(6), "cannot resume from step-6: optimizer.safetensors is damaged");
  TrainingOptions other = all_kept();
  other.seed = 77;
  expect_refused([&] { ToyRun()(run_, other, true, [](auto& in) { in.resume_from = 3; }); },
                 "training.seed: the run began with 3, found 77");
}

// A checkpoint that is kept can always be gone back to: the best one by then is kept with it.
TEST_F(Resuming, KeepsTheBestOneOfEveryCheckpointThatItKeeps) {
  TrainingOptions options = fixture::toy_options(30);
  options.checkpoint_every = 2;
  options.validate_every = 3;
  for (const std::int64_t keep : {1, 2, 4}) {
    options.keep_checkpoints = keep;
    run_ = folder_.path() / ("keep-" + std::to_string(keep));
    ToyRun()(run_, options);
    const CheckpointFolder checkpoints(run_ / "checkpoints");
    const auto steps = checkpoints.steps();
    EXPECT_LE(static_cast<std::int64_t>(steps.size()), keep + 1);
    for (std::size_t i = steps.size() - static_cast<std::size_t>(keep); i < steps.size(); ++i) {
      const RunState state = checkpoints.read(steps[i]);
      EXPECT_NE(std::find(steps.begin(), steps.end(), state.best_step), steps.end()) << steps[i];
    }
  }
}

}  // namespace
}  // namespace moelora::train
