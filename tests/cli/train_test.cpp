// moelora train as a user meets it: what is refused before anything is written, and resuming.

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::run_words;
using moelora::testing::TemporaryFolder;
using Outcome = moelora::testing::Run;

std::string bytes_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::map<std::string, std::string> files_below(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) {
      files[entry.path().lexically_relative(folder).string()] = bytes_of(entry.path());
    }
  }
  return files;
}

/// A configuration of 6 steps with checkpoints after 2, 4 and 6.
class TrainProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path data = folder_.path() / "data.json";
    std::ofstream out(data);
    for (int i = 0; i < 24; ++i) {
      out << ordered_json{{"input", "患者" + std::to_string(i)},
                          {"target", i % 3 == 0 ? "是" : "否"},
                          {"task_dataset", i % 2 == 0 ? "one" : "two"},
                          {"sample_id", std::to_string(i)}}
                 .dump()
          << "\n";
    }
    std::ofstream(config_) << ordered_json{
        {"mode", "adapter"},
        {"model", {{"path", (fixtures() / "chatglm-tiny").string()}}},
        {"adapter", {{"rank", 4}, {"num_experts", 2}, {"task_embedding_dim", 8}}},
        {"data", {{"train", data.string()}, {"validation_size", 3}}},
        {"training",
         {{"steps", 6}, {"batch_size", 4}, {"checkpoint_every", 2}, {"keep_checkpoints", 5}, {"threads", 1}}}};
  }
  Outcome train(const std::vector<std::string>& more) const {
    std::vector<std::string> words{"train", "--config", config_};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  }
  /// Refused with `part`; every file of `output` stays as it was.
  void expect_refused(const fs::path& output, const std::vector<std::string>& more, const std::string& part) const {
    const auto before = files_below(output);
    std::vector<std::string> words{"--output", output};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome outcome = train(words);
    EXPECT_EQ(outcome.code, 2) << outcome.text;
    EXPECT_NE(outcome.text.find(part), std::string::npos) << part << "\nin\n" << outcome.text;
    EXPECT_TRUE(files_below(output) == before) << "files of " << output << " were changed";
  }
  fs::path trained(const std::string& name) const {
    const fs::path output = folder_.path() / name;
    const Outcome outcome = train({"--output", output});
    EXPECT_EQ(outcome.code, 0) << outcome.text;
    return output;
  }
  TemporaryFolder folder_;
  fs::path config_ = folder_.path() / "config.json";
};

TEST_F(TrainProgram, ThatIsRefusedLeavesEveryFile) {
  const fs::path run = trained("run");
  expect_refused(run, {"--resume", "--set", "training.batch_size=3"}, "training.batch_size: the run began with 4");
  expect_refused(run, {"--resume", "--set", "model.dtype=bfloat16"}, "model.dtype: the run began with \"float32\"");
  expect_refused(run, {"--resume", "--set", "data.max_records=9"}, "data are not the ones that the run began with");
  expect_refused(run, {"--resume-from", "step-3"}, "there are step-2, step-4, step-6");
  expect_refused(run, {"--resume-from", "last"}, "expected the name of a checkpoint such as step-100, found 'last'");
  expect_refused(run, {"--resume", "--allow-change", "seed"}, "--allow-change");
  expect_refused(run, {"--allow-change", "dtype"}, "--allow-change goes with --resume");
  expect_refused(run, {}, "is not an empty folder");

  const fs::path model = folder_.path() / "model";
  fs::copy(fixtures() / "chatglm-tiny", model, fs::copy_options::recursive);
  expect_refused(model, {"--resume"}, "is not the folder of a run");
  expect_refused(run / "adapter", {"--resume"}, "is not the folder of a run");
  expect_refused(run / "checkpoints" / "step-2", {"--resume"}, "is not the folder of a run");

  const Outcome never = train({"--output", folder_.path() / "never", "--set", "data.train=/no/such/file"});
  EXPECT_EQ(never.code, 2) << never.text;
  EXPECT_FALSE(fs::exists(folder_.path() / "never"));
}

TEST_F(TrainProgram, RemembersHowPromptsWereWritten) {
  const fs::path base = fixtures() / "qwen2-tiny";
  const fs::path run = folder_.path() / "run";
  const Outcome trained = train({"--output", run, "--set", "model.path=" + base.string(), "data.template=none",
                                 "adapter.targets=[\"q_proj\"]", "training.steps=1"});
  ASSERT_EQ(trained.code, 0) << trained.text;
  const auto answered = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"generate", "--model", base,       "--adapter", run / "adapter",
                                   "--task",   "one",     "--prompt", "x",         "--max-new-tokens",
                                   "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  };
  const std::string warning =
      "was trained on prompts of another form: chat template (data.template, --template): none in training, one with "
      "SHA-256";
  const Outcome other = answered({});
  EXPECT_EQ(other.code, 0) << other.text;
  EXPECT_NE(other.text.find(warning), std::string::npos) << other.text;
  const Outcome same = answered({"--template", "none"});
  EXPECT_EQ(same.code, 0) << same.text;
  EXPECT_EQ(same.text.find("was trained on prompts"), std::string::npos) << same.text;
  const Outcome scored =
      run_words({"eval", "--model", base, "--adapter", run / "adapter", "--data", folder_.path() / "data.json",
                 "--template", "none", "--max-new-tokens", "1", "--output", folder_.path() / "scores"});
  EXPECT_EQ(scored.code, 0) << scored.text;
  EXPECT_EQ(scored.text.find("was trained on prompts"), std::string::npos) << scored.text;
  const Outcome continued = train({"--output", folder_.path() / "more", "--set", "model.path=" + base.string(),
                                   "adapter=null", "adapter_from=" + (run / "adapter").string(), "training.steps=1"});
  EXPECT_EQ(continued.code, 0) << continued.text;
  EXPECT_NE(continued.text.find(warning), std::string::npos) << continued.text;
  const fs::path own = folder_.path() / "own.jinja";
  std::ofstream(own) << "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}";
  const Outcome merged = run_words({"merge", "--model", base, "--adapter", run / "adapter", "--task", "one",
                                    "--template", own, "--output", folder_.path() / "merged"});
  EXPECT_EQ(merged.code, 0) << merged.text;
  EXPECT_EQ(bytes_of(folder_.path() / "merged" / "chat_template.jinja"), bytes_of(own))
      << "what it is to be asked with";
  const Outcome folder = run_words({"eval", "--model", base, "--adapter", run, "--data", folder_.path() / "data.json",
                                    "--output", folder_.path() / "none"});
  EXPECT_EQ(folder.code, 2) << folder.text;
  EXPECT_NE(folder.text.find("its adapter is " + (run / "adapter").string()), std::string::npos) << folder.text;
}

TEST_F(TrainProgram, KeepsThePrefixOfItsInputsAndNamesOtherTaskPrompts) {
  const fs::path prompts = folder_.path() / "prompts.json";
  std::ofstream(prompts) << R"({"one": "Say yes. ", "two": "Say no. "})";
  const fs::path run = folder_.path() / "run";
  const Outcome trained = train({"--output", run, "--set", "training.steps=1",
                                 "data.source_prefix=PRE:", "data.task_prompts=" + prompts.string()});
  ASSERT_EQ(trained.code, 0) << trained.text;
  const auto scored = [&](const std::string& output, const std::vector<std::string>& more) {
    std::vector<std::string> words{"eval",
                                   "--output",
                                   folder_.path() / output,
                                   "--model",
                                   fixtures() / "chatglm-tiny",
                                   "--adapter",
                                   run / "adapter",
                                   "--data",
                                   folder_.path() / "data.json",
                                   "--max-new-tokens",
                                   "1"};
    words.insert(words.end(), more.begin(), more.end());
    return run_words(words);
  };
  const Outcome without = scored("one", {});
  EXPECT_EQ(without.code, 0) << without.text;
  EXPECT_NE(without.text.find("task prompts (data.task_prompts, --task-prompts): one with SHA-256"), std::string::npos)
      << without.text;
  EXPECT_EQ(without.text.find("source_prefix"), std::string::npos) << "the adapter's own is taken: " << without.text;
  const Outcome with = scored("two", {"--task-prompts", prompts});
  EXPECT_EQ(with.text.find("prompts of another form"), std::string::npos) << with.text;
}

TEST_F(TrainProgram, HasOneRunInAFolderAtATime) {
  const fs::path run = folder_.path() / "run";
  const pid_t first = fork();
  if (first == 0) {
    const std::string out = "--output=" + run.string();
    const std::string config = "--config=" + config_.string();
    if (freopen("/dev/null", "w", stderr) == nullptr) {
      _exit(127);
    }
    execl(MOELORA_PROGRAM, MOELORA_PROGRAM, "train", config.c_str(), out.c_str(), "--set", "training.steps=1000000",
          nullptr);
    _exit(127);
  }
  for (int i = 0; i < 600 && bytes_of(run / "log.jsonl").empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  for (const char* more : {"--resume", "--set=training.seed=1"}) {
    const Outcome second = train({"--output", run, more});
    EXPECT_EQ(second.code, 2) << second.text;
    EXPECT_NE(second.text.find("is in use by moelora train (process " + std::to_string(first)), std::string::npos)
        << second.text;
  }
  kill(first, SIGKILL);
  int status = 0;
  waitpid(first, &status, 0);
  // The lock of a killed process holds nobody up; its configuration is the one it began with.
  EXPECT_EQ(ordered_json::parse(bytes_of(run / "config.json"))["training"]["steps"], 1000000);
  const Outcome resumed = train({"--output", run, "--resume", "--set", "training.steps=1000000", "training.seed=1"});
  EXPECT_EQ(resumed.code, 2);
  EXPECT_NE(resumed.text.find("training.seed: the run began with 42, found 1"), std::string::npos) << resumed.text;
}

TEST_F(TrainProgram, NamesEveryCheckpointThatItCannotUse) {
  const fs::path run = trained("run");
  for (const char* step : {"step-2", "step-4", "step-6"}) {
    std::ofstream(run / "checkpoints" / step / "state.json", std::ios::app) << " ";
  }
  expect_refused(run, {"--resume"}, "step-2 cannot be used: state.json is damaged");
  expect_refused(run, {"--resume"}, "step-6 cannot be used: state.json is damaged");
}

TEST_F(TrainProgram, GoesBackToAnEarlierCheckpointWithAnotherLearningRate) {
  const fs::path whole = trained("whole");
  const fs::path run = trained("run");
  fs::resize_file(run / "checkpoints" / "step-6" / "optimizer.safetensors", 64);
  const Outcome repaired = train({"--output", run, "--resume"});
  EXPECT_EQ(repaired.code, 0) << repaired.text;
  EXPECT_NE(repaired.text.find("step-6 cannot be used: optimizer.safetensors is damaged"), std::string::npos)
      << repaired.text;
  EXPECT_TRUE(bytes_of(run / "adapter" / "adapter.safetensors") == bytes_of(whole / "adapter" / "adapter.safetensors"));

  const Outcome changed = train({"--output", run, "--resume-from", "step-2", "--set", "training.learning_rate=1e-3",
                                 "training.memory_budget_gb=20"});
  EXPECT_EQ(changed.code, 0) << changed.text;
  EXPECT_TRUE(fs::exists(run / "set-aside-2" / "adapter" / "adapter.json")) << changed.text;
  EXPECT_EQ(ordered_json::parse(bytes_of(run / "config.json"))["training"]["learning_rate"], 1e-3);
  const auto provenance = ordered_json::parse(bytes_of(run / "adapter" / "adapter.json"))["provenance"];
  ASSERT_EQ(provenance["changes"].size(), 1u) << provenance.dump(2);
  EXPECT_EQ(provenance["changes"][0]["key"], "training.learning_rate");
  EXPECT_EQ(provenance["changes"][0]["step"], 2);
  EXPECT_NE(bytes_of(run / "log.jsonl").find("training.learning_rate"), std::string::npos);

  const Outcome bfloat16 = train({"--output", run, "--resume", "--set", "model.dtype=bfloat16", "training.steps=7",
                                  "training.learning_rate=1e-3", "--allow-change", "dtype"});
  EXPECT_EQ(bfloat16.code, 0) << bfloat16.text;
}

TEST_F(TrainProgram, BeginsWithATrainedAdapter) {
  const fs::path first = trained("first");
  const std::string from = "adapter_from=" + (first / "adapter").string();
  const fs::path more = folder_.path() / "more";
  const Outcome outcome = train({"--output", more, "--set", from, "adapter=null"});
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  const auto description = ordered_json::parse(bytes_of(more / "adapter" / "adapter.json"));
  EXPECT_EQ(description["config"]["rank"], 4);
  EXPECT_EQ(description["provenance"]["adapter_from"], (first / "adapter").string());
  const auto first_loss = [](const fs::path& run) {
    std::ifstream log(run / "log.jsonl");
    std::string line;
    std::getline(log, line);
    return ordered_json::parse(line)["loss"].get<double>();
  };
  EXPECT_LT(first_loss(more), first_loss(first));
  EXPECT_EQ(train({"--output", more, "--resume", "--set", from}).code, 0) << "the section agrees";
  EXPECT_EQ(run_words({"inspect", more / "config.json"}).code, 0);
  EXPECT_EQ(train({"--dry-run", "--set", from}).code, 0);
  const Outcome other = train({"--output", folder_.path() / "never", "--set", from, "adapter.rank=8"});
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.text.find("adapter.rank: that adapter has 4, found 8"), std::string::npos) << other.text;
  const Outcome fewer = train({"--output", folder_.path() / "half", "--set", "data.tasks=[\"one\"]"});
  EXPECT_EQ(fewer.code, 0) << fewer.text;
  const Outcome unknown = train({"--output", folder_.path() / "never", "--set",
                                 "adapter_from=" + (folder_.path() / "half" / "adapter").string()});
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.text.find("does not have the tasks of some records: two"), std::string::npos) << unknown.text;
  EXPECT_FALSE(fs::exists(folder_.path() / "never"));
}

TEST_F(TrainProgram, PrintsEveryKeyOfAConfiguration) {
  const Outcome all = run_words({"train", "--print-config"});
  EXPECT_EQ(all.code, 0) << all.text;
  std::ofstream(folder_.path() / "printed.json") << all.text;
  for (const char* part : {"\"learning_rate\": 0.0002", "// at the peak of the schedule", "\"max_target_length\": 196",
                           "\"num_experts\": 8", "\"device\": \"auto\""}) {
    EXPECT_NE(all.text.find(part), std::string::npos) << part << "\nin\n" << all.text;
  }
  // What it prints is a configuration.
  const Outcome planned = run_words({"train", "--config", folder_.path() / "printed.json", "--dry-run", "--set",
                                     "model.path=" + (fixtures() / "chatglm-tiny").string(),
                                     "data.train=" + (folder_.path() / "data.json").string()});
  EXPECT_EQ(planned.code, 0) << planned.text;
  const Outcome own = train({"--print-config", "--set", "training.steps=77"});
  EXPECT_EQ(own.code, 0);
  EXPECT_NE(own.text.find("\"steps\": 77"), std::string::npos) << own.text;
  EXPECT_EQ(run_words({"train", "--output", folder_.path() / "x"}).code, 2) << "a run without a configuration";
}

TEST_F(TrainProgram, PointsFromEpochsAndLrToItsOwnKeys) {
  for (const char* where : {"training.", ""}) {
    const Outcome outcome = train({"--output", folder_.path() / "never", "--set", std::string(where) + "epochs=3",
                                   std::string(where) + "lr=1e-4"});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.text.find("set training.steps to epochs"), std::string::npos) << outcome.text;
    EXPECT_NE(outcome.text.find("lr: unknown key; use training.learning_rate"), std::string::npos) << outcome.text;
  }
}

}  // namespace
