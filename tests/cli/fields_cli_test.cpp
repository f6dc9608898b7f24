// The program on data of one's own: the configurations that ship, mappings on every verb that reads records, several
// files with weights.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::command_of;
using moelora::testing::output_of;
using moelora::testing::quoted;
using Answer = moelora::testing::Run;

/// In the repository, where the paths of configurations begin.
Answer run_there(const std::vector<std::string>& words) {
  return output_of("cd " + quoted(MOELORA_SOURCE_DIR) + " && OMP_WAIT_POLICY=passive " + command_of(words) + " 2>&1");
}

std::string text_of(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

std::vector<ordered_json> lines_of(const fs::path& path) {
  std::vector<ordered_json> lines;
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(ordered_json::parse(line));
  }
  return lines;
}

const fs::path kOwnData = fs::path(MOELORA_SOURCE_DIR) / "examples" / "own_data";
const fs::path kBase = fs::path(MOELORA_SOURCE_DIR) / "examples" / "tiny_base" / "model";
constexpr const char* kOwnFields =
    R"({"prompt": "{context?}\n{question}", "answer": "{answer.text}", "task": "meta.topic"})";

class OwnData : public testing::Test {
 protected:
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
    return folder_.path() / name;
  }
  fs::path output(const std::string& name) const { return folder_.path() / name; }

  Answer train(const std::string& config, const fs::path& folder, std::vector<std::string> more = {}) const {
    std::vector<std::string> words{"train", "--config", config, "--output", folder};
    words.insert(words.end(), more.begin(), more.end());
    return run_there(words);
  }

  moelora::testing::TemporaryFolder folder_;
};

TEST_F(OwnData, WhatTrainingWouldLeaveOutIsSeenBefore) {
  const fs::path numbers = write("numbers.jsonl", R"({"instruction": "a", "output": 0, "task": "t"}
{"instruction": "b", "output": "1", "task": "t"}
)");
  const Answer answer = run_there({"inspect", numbers, "--fields", "alpaca"});
  EXPECT_EQ(answer.code, 0) << answer.text;
  EXPECT_TRUE(answer.has("1 of 2; ")) << answer.text;
  EXPECT_TRUE(answer.has("expected a string as \"output\", found number")) << answer.text;
}

TEST_F(OwnData, EveryConfigurationThatShipsTrainsAndOpensWithItsCommand) {
  const std::vector<std::pair<std::string, std::string>> tasks_of = {
      {"alpaca", "2 tasks"},     {"sharegpt", "1 task"},        {"messages", "2 tasks"},
      {"own-fields", "3 tasks"}, {"several-files", "12 tasks"}, {"task-from-file-name", "2 tasks"},
  };
  std::size_t configurations = 0;
  for (const auto& file : fs::directory_iterator(fs::path(MOELORA_SOURCE_DIR) / "configs" / "own-data")) {
    configurations += file.path().extension() == ".json" ? 1 : 0;
  }
  EXPECT_EQ(configurations, tasks_of.size());
  for (const auto& [name, tasks] : tasks_of) {
    const std::string config = "configs/own-data/" + name + ".json";
    EXPECT_NE(text_of(fs::path(MOELORA_SOURCE_DIR) / config).find("//   build/bin/moelora train --config " + config),
              std::string::npos)
        << name;
    const Answer trained = train(config, output(name), {"--set", "training.steps=2", "training.warmup_steps=1"});
    EXPECT_EQ(trained.code, 0) << name << ": " << trained.text;
    EXPECT_TRUE(trained.has("training records have " + tasks)) << name << ": " << trained.text;
    EXPECT_FALSE(trained.has("left out")) << name << ": " << trained.text;
    const Answer printed = run_there({"train", "--config", config, "--print-config"});
    EXPECT_EQ(printed.code, 0) << name << ": " << printed.text;
    EXPECT_EQ(ordered_json::parse(text_of(output(name) / "config.json"))["data"],
              ordered_json::parse(printed.text, nullptr, true, /*ignore_comments=*/true)["data"])
        << name;
  }
}

TEST_F(OwnData, InspectShowsWhatAModelSees) {
  const Answer answer = run_there({"inspect", kOwnData / "alpaca.json", "--fields", "alpaca", "--model", kBase,
                                   "--max-source-length", "12", "--samples", "1"});
  EXPECT_EQ(answer.code, 0) << answer.text;
  for (const char* part :
       {"fields                 \"alpaca\"", "'Department'", "'Urgency'", "with choices           19",
        "prompt, characters", "answer, tokens", "prompts cut at 12 tokens: 1", "tokens without labels", "labels (",
        "    | 病人该看哪个科？选项：内科，外科。\n    | 孩子发热三天，精神差。\n"}) {
    EXPECT_TRUE(answer.has(part)) << part << " is not in " << answer.text;
  }
  EXPECT_FALSE(answer.has("answer is no choice")) << answer.text;
  const Answer file =
      run_there({"inspect", kOwnData / "questions.jsonl", "--fields", "configs/own-data/own-fields.json"});
  EXPECT_EQ(file.code, 0) << file.text;
  EXPECT_TRUE(file.has("    | 问：发热时喝什么？\n    | 答：\n")) << file.text;
  const Answer talk = run_there({"inspect", kOwnData / "sharegpt.json", "--fields", "sharegpt", "--model", kBase});
  EXPECT_EQ(talk.code, 0) << talk.text;
  EXPECT_TRUE(talk.has("earlier prompt\n    | 我发热。")) << talk.text;
}

TEST_F(OwnData, WhatDoesNotFitIsToldByEveryVerb) {
  const fs::path alpaca = kOwnData / "alpaca.json";
  const std::string config = write(
      "config.json",
      ordered_json{{"mode", "adapter"}, {"model", {{"path", kBase.string()}}}, {"data", {{"train", alpaca.string()}}}}
          .dump());
  for (const Answer& answer :
       {run_there({"inspect", alpaca}), run_there({"eval", "--data", alpaca, "--predictions", alpaca}),
        run_there({"generate", "--model", kBase, "--input", alpaca, "--output", output("answers.json")}),
        run_there({"train", "--config", config, "--dry-run"})}) {
    EXPECT_EQ(answer.code, 2) << answer.text;
    EXPECT_TRUE(answer.has("these are the fields of \"alpaca\"")) << answer.text;
  }
  const Answer wrong = run_there({"inspect", alpaca, "--fields", "alpacca"});
  EXPECT_EQ(wrong.code, 2) << wrong.text;
  EXPECT_TRUE(wrong.has("did you mean \"alpaca\"")) << wrong.text;
  const Answer mixed = run_there({"inspect", kBase, "--fields", "alpaca"});
  EXPECT_EQ(mixed.code, 2) << mixed.text;
}

TEST_F(OwnData, PredictionsKeepTheRecordsFieldsAndAreScoredAgain) {
  const fs::path data = kOwnData / "questions.jsonl";
  const std::vector<std::string> short_answers{"--max-new-tokens", "4", "--fields", kOwnFields};
  std::vector<std::string> words{
      "eval", "--model", kBase, "--data", data, "--output", output("scores"), "--scorer", "configs/scorers.json"};
  words.insert(words.end(), short_answers.begin(), short_answers.end());
  const Answer scored = run_there(words);
  ASSERT_EQ(scored.code, 0) << scored.text;
  const auto predictions = lines_of(output("scores") / "predictions.json");
  const auto records = lines_of(data);
  ASSERT_EQ(predictions.size(), records.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    ordered_json without = predictions[i];
    EXPECT_EQ(without.erase("prediction"), 1u);
    EXPECT_EQ(without, records[i]);
  }
  const auto again = [&](const fs::path& file) {
    return run_there({"eval", "--predictions", file, "--data", data, "--fields", kOwnFields, "--scorer",
                      "configs/scorers.json", "--json", output(file.filename().string() + ".scores")});
  };
  EXPECT_EQ(again(output("scores") / "predictions.json").code, 0);
  const Answer unanswered = again(data);
  EXPECT_EQ(unanswered.code, 2) << "records are no predictions: " << unanswered.text;
  EXPECT_TRUE(unanswered.has("the field \"prediction\" is missing")) << unanswered.text;
  words = {"generate", "--model", kBase, "--input", data, "--output", output("answers.jsonl")};
  words.insert(words.end(), short_answers.begin(), short_answers.end());
  const Answer generated = run_there(words);
  ASSERT_EQ(generated.code, 0) << generated.text;
  EXPECT_EQ(lines_of(output("answers.jsonl")), predictions);
}

TEST_F(OwnData, TasksFromFileNamesAreThoseOfTheDataForItsPredictionsToo) {
  const std::string config = "configs/own-data/task-from-file-name.json";
  const fs::path data = kOwnData / "by_task" / "Department.jsonl";
  ASSERT_EQ(train(config, output("run"), {"--set", "training.steps=1", "training.warmup_steps=0"}).code, 0);
  const auto answer = [&](const std::string& fields, const std::string& name) {
    return run_there({"generate", "--model", kBase, "--adapter", output("run") / "adapter", "--input", data, "--fields",
                      fields, "--max-new-tokens", "4", "--output", output(name)});
  };
  ASSERT_EQ(answer(config, "answers.jsonl").code, 0);
  const Answer scored =
      run_there({"eval", "--predictions", output("answers.jsonl"), "--before", output("answers.jsonl"), "--data", data,
                 "--fields", config, "--json", output("scores.json")});
  EXPECT_EQ(scored.code, 0) << scored.text;
  EXPECT_TRUE(ordered_json::parse(text_of(output("scores.json")))["tasks"].contains("Department"));
  // The same where a field might say the task.
  const Answer as_fallback =
      answer(R"({"prompt": "病人说：{complaint}\n答：", "answer": "{label}", "task": ["kind", {"file_name": true}]})",
             "same.jsonl");
  EXPECT_EQ(as_fallback.code, 0) << as_fallback.text;
  EXPECT_EQ(text_of(output("same.jsonl")), text_of(output("answers.jsonl")));
}

TEST_F(OwnData, WeightedFilesResumeBitForBitAndTheirWeightsAreTheRuns) {
  const std::string config = "configs/own-data/several-files.json";
  const std::vector<std::string> steps{"--set", "training.steps=6", "training.warmup_steps=1",
                                       "training.checkpoint_every=3", "training.schedule=constant"};
  ASSERT_EQ(train(config, output("whole"), steps).code, 0);
  ASSERT_EQ(train(config, output("parts"), steps).code, 0);
  std::vector<std::string> resumed = steps;
  resumed.insert(resumed.end(), {"--resume-from", "step-3"});
  const Answer again = train(config, output("parts"), resumed);
  ASSERT_EQ(again.code, 0) << again.text;
  EXPECT_EQ(text_of(output("parts") / "adapter" / "adapter.safetensors"),
            text_of(output("whole") / "adapter" / "adapter.safetensors"));
  ordered_json other = ordered_json::parse(text_of(output("whole") / "config.json"));
  other["data"]["train"][1]["weight"] = 3.0;
  const Answer refused = run_there(
      {"train", "--config", write("other.json", other.dump()), "--output", output("whole"), "--resume-from", "step-3"});
  EXPECT_EQ(refused.code, 2) << refused.text;
  EXPECT_TRUE(refused.has("the training or validation data are not the ones that the run began with")) << refused.text;
  const ordered_json written = ordered_json::parse(text_of(output("whole") / "adapter" / "adapter.json"));
  EXPECT_EQ(written["provenance"]["data"]["files"][1]["weight"], 2.0) << written.dump();
}

}  // namespace
