// Answers and scores as a user of `generate` and `eval` meets them: what is asked, what is scored.

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/questions.h"
#include "support/shared.h"

namespace {

using namespace moelora::testing::questions;
using moelora::testing::fixtures;
using moelora::testing::TemporaryFolder;

// ---- what is scored

TEST(Scores, RecordsWithoutATargetAreLeftOutAndEveryOutputSaysSo) {
  const TemporaryFolder folder;
  std::vector<ordered_json> records = questions(6);
  records[1]["target"] = nullptr;
  records[2].erase("target");
  records[4]["target"] = "";
  const fs::path data = write_lines(folder.path() / "data.json", records);
  for (ordered_json& record : records) record["target"] = record["sample_id"] == "q-3" ? "否" : "是";
  const fs::path answers = write_lines(folder.path() / "answers.json", records);
  const Result scored = run({"eval", "--predictions", answers, "--data", data, "--majority", data, "--before", answers,
                             "--output", folder.path() / "scores", "--json", folder.path() / "scores.json"});
  EXPECT_EQ(scored.code, 0) << scored.text;
  EXPECT_TRUE(says(scored, "records without a target are not scored: 3 (q-1, q-2, q-4)")) << scored.text;
  EXPECT_TRUE(says(scored, "Scored: 3 of 6 records")) << scored.text;
  const auto json = ordered_json::parse(content_of(folder.path() / "scores.json"));
  EXPECT_EQ(json["samples"], 3);
  EXPECT_EQ(json["left_out"], 3);
  EXPECT_NEAR(json["average"].get<double>(), 2.0 / 3, 1e-12);
  const auto report = ordered_json::parse(content_of(folder.path() / "scores" / "report.json"));
  for (const char* column : {"before", "after", "majority"}) {
    EXPECT_EQ(report[column]["samples"], 3) << column;
    EXPECT_EQ(report[column]["left_out"], 3) << column;
  }
  EXPECT_EQ(report["majority"]["average"], 1.0);
  for (const char* file : {"report.txt", "report.html"}) {
    EXPECT_NE(content_of(folder.path() / "scores" / file).find("3 (q-1, q-2, q-4)"), std::string::npos) << file;
  }

  for (ordered_json& record : records) record["target"] = nullptr;
  const fs::path none = write_lines(folder.path() / "none.json", records);
  for (const Result& refused :
       {run({"eval", "--predictions", answers, "--data", none}),
        run({"eval", "--model", "/no/such/model", "--data", none, "--output", folder.path() / "never"}),
        run({"eval", "--predictions", answers, "--data", data, "--majority", none})}) {
    EXPECT_EQ(refused.code, 2);
    EXPECT_TRUE(says(refused, "found none in 6 records")) << refused.text;
  }
  EXPECT_FALSE(fs::exists(folder.path() / "never"));
}

TEST(Scores, RecordsThatAreMalformedAreLeftOutAndTheReportSaysSo) {
  const TemporaryFolder folder;
  const fs::path answers = write_lines(folder.path() / "answers.json", questions(3));
  const fs::path data = write_lines(folder.path() / "data.json", questions(3));
  std::ofstream(data, std::ios::app) << R"({"input": "broken)" << '\n';
  const Result scored = run({"eval", "--predictions", answers, "--data", data, "--output", folder.path() / "scores",
                             "--json", folder.path() / "scores.json"});
  EXPECT_EQ(scored.code, 0) << scored.text;
  EXPECT_EQ(ordered_json::parse(content_of(folder.path() / "scores.json"))["malformed"], 1);
  EXPECT_NE(content_of(folder.path() / "scores" / "report.txt").find("left out, malformed: 1; the first: "),
            std::string::npos);
}

// ---- prompts that are too long

TEST(LongPrompts, AreCountedByNameOnTheScreenAndInTheReport) {
  const TemporaryFolder folder;
  std::vector<ordered_json> records = questions(4);
  std::string text;
  for (int i = 0; i < 60; ++i) text += "患者发热" + std::to_string(i);
  records[2]["input"] = text;
  const fs::path data = write_lines(folder.path() / "data.json", records);
  const auto evaluating = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> words{"eval",
                                   "--model",
                                   base_model(),
                                   "--data",
                                   data,
                                   "--output",
                                   folder.path() / name,
                                   "--json",
                                   folder.path() / (name + ".json"),
                                   "--max-new-tokens",
                                   "4"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  const Result cut = evaluating("cut", {});
  EXPECT_EQ(cut.code, 0) << cut.text;
  // The model takes 128 tokens in all.
  EXPECT_TRUE(says(cut, "longer than 124 tokens lose their middle: 1 (q-2)")) << cut.text;
  const auto report = ordered_json::parse(content_of(folder.path() / "cut" / "report.json"));
  EXPECT_EQ(report["facts"]["cut prompts"], "1 (q-2): longer than 124 tokens, without their middle");
  EXPECT_EQ(ordered_json::parse(content_of(folder.path() / "cut.json"))["cut_prompts"], 1);
  EXPECT_TRUE(says(evaluating("tail", {"--cut", "tail"}), "lose their tail"));
  const Result refused = evaluating("never", {"--cut", "error"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(says(refused, "record q-2: its source has")) << refused.text;
  EXPECT_FALSE(fs::exists(folder.path() / "never"));
  EXPECT_EQ(evaluating("never", {"--cut", "front"}).code, 2);

  records.erase(records.begin() + 2);
  write_lines(data, records);
  const Result short_ones = evaluating("short", {});
  EXPECT_EQ(short_ones.code, 0);
  EXPECT_FALSE(says(short_ones, "lose their")) << short_ones.text;
  EXPECT_EQ(ordered_json::parse(content_of(folder.path() / "short.json"))["cut_prompts"], 0);

  for (const std::string mode : {"--stream", "--sample"}) {
    const Result prompt = run({"generate", "--model", base_model(), "--prompt", text, "--max-new-tokens", "4", mode});
    EXPECT_EQ(prompt.code, 0) << prompt.text;
    EXPECT_TRUE(says(prompt, "lose their middle: 1 (the prompt)")) << prompt.text;
  }
  const std::string help = run({"eval", "--help"}).text;
  EXPECT_NE(help.find("what --max-new-tokens leaves"), std::string::npos) << help;
}

TEST(LongPrompts, AndTargetsOfTrainingAreCountedByName) {
  const TemporaryFolder folder;
  std::vector<ordered_json> records = questions(6);
  records[1]["target"] = "患者发热咳嗽头痛患者发热咳嗽头痛";
  const fs::path data = write_lines(folder.path() / "data.json", records);
  const fs::path config = folder.path() / "config.json";
  std::ofstream(config) << ordered_json{
      {"model", {{"path", base_model()}}},
      {"adapter", {{"rank", 2}, {"num_experts", 2}, {"task_embedding_dim", 4}}},
      {"data", {{"train", data.string()}, {"validation_size", 0}, {"max_source_length", 4}, {"max_target_length", 6}}},
      {"training", {{"steps", 1}, {"batch_size", 2}}}};
  const auto dry_run = [&](const std::string& set) {
    return run({"train", "--config", config, "--dry-run", "--set", set});
  };
  const Result cut = dry_run("data.cut=head");
  EXPECT_EQ(cut.code, 0) << cut.text;
  EXPECT_TRUE(says(cut, "lose their head: 6 (q-0, q-1, q-2, q-3, q-4, …)")) << cut.text;
  EXPECT_TRUE(says(cut, "lose their end: 1 (q-1)")) << cut.text;
  EXPECT_TRUE(says(dry_run("data.max_target_length=6"), "lose their tail: 6")) << "as before";
  const Result refused = dry_run("data.cut=error");
  EXPECT_EQ(refused.code, 2);
  EXPECT_TRUE(says(refused, "record q-0: its source has")) << refused.text;
}

// ---- sampling

std::map<std::string, std::string> sampled(const std::vector<ordered_json>& records, const std::string& batch_size) {
  const TemporaryFolder folder;
  const fs::path input = write_lines(folder.path() / "questions.json", records);
  const fs::path output = folder.path() / "answers.json";
  const Result result =
      run({"generate", "--model", base_model(), "--input", input, "--output", output, "--sample", "--temperature", "2",
           "--seed", "3", "--max-new-tokens", "12", "--batch-size", batch_size});
  EXPECT_EQ(result.code, 0) << result.text;
  std::map<std::string, std::string> answers;
  for (const ordered_json& line : lines_of(output)) answers[line["sample_id"]] = line["target"];
  return answers;
}

TEST(Sampling, AnswersAreTheRecordsOwn) {
  std::vector<ordered_json> records = questions(7);
  const auto answers = sampled(records, "1");
  EXPECT_EQ(answers.size(), 7u);
  EXPECT_EQ(sampled(records, "3"), answers);
  std::reverse(records.begin(), records.end());
  EXPECT_EQ(sampled(records, "2"), answers);
  records.resize(1);
  EXPECT_EQ(sampled(records, "2").at("q-6"), answers.at("q-6"));
}

TEST(Sampling, OptionsWithoutItAreWarnedOf) {
  const std::vector<std::string> words{"generate", "--model",       base_model(), "--prompt",         "患者", "--top-k",
                                       "5",        "--temperature", "0.5",        "--max-new-tokens", "2"};
  const Result greedy = run(words);
  EXPECT_EQ(greedy.code, 0);
  EXPECT_TRUE(says(greedy, "--temperature, --top-k: without effect")) << greedy.text;
  std::vector<std::string> sampling = words;
  sampling.push_back("--sample");
  EXPECT_FALSE(says(run(sampling), "without effect"));
  const Result scoring = run({"eval", "--predictions", "x", "--data", "y", "--sample"});
  EXPECT_EQ(scoring.code, 2);
  EXPECT_TRUE(says(scoring, "--sample requires --model")) << scoring.text;
}

// ---- options and records

TEST(Numbers, OutOfRangeAreNamedInAFewWords) {
  const std::string digits(400, '9');
  const std::vector<std::pair<std::string, std::vector<std::string>>> wrong{
      {"--temperature", {"1e999", "0", "-1", "nan", "inf", "1e308", digits}},
      {"--top-p", {"0", "1.5", "nan", "1e-999"}},
      {"--top-k", {"-1", "99999999999999999999", "2.5"}},
      {"--max-new-tokens", {"0", "99999999999999999999", "1e308", digits}},
      {"--max-source-length", {"0", "-5", "9223372036854775807"}},
      {"--batch-size", {"0", "x", digits}},
      {"--seed", {"-1", "18446744073709551616"}},
      {"--threads", {"-1", "99999999999"}},
  };
  for (const auto& [option, values] : wrong) {
    for (const std::string& value : values) {
      const Result result = run({"generate", "--model", "/no/such/model", "--prompt", "x", option + "=" + value});
      EXPECT_EQ(result.code, 2) << option << value;
      EXPECT_TRUE(says(result, option + ": expected a ")) << result.text;
      EXPECT_LT(result.text.size(), 200u) << result.text;
    }
  }
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"verify", base_model(), "--tolerance-factor=1e999"},
        std::vector<std::string>{"experiment", "--config", "x", "--jobs=99999999999999999999"},
        std::vector<std::string>{"eval", "--model", "x", "--data", "x", "--demonstrations=" + digits}}) {
    const Result result = run(words);
    EXPECT_EQ(result.code, 2);
    EXPECT_LT(result.text.size(), 200u) << result.text;
  }
}

TEST(Records, KeepTheirTaskWhereAnotherAnswers) {
  const TemporaryFolder folder;
  std::vector<ordered_json> records = questions(2);
  records[1].erase("task_dataset");
  records[1].erase("target");
  const fs::path input = write_lines(folder.path() / "questions.json", records);
  std::ofstream(folder.path() / "prompts.json") << R"({"another": "回答"})";
  const fs::path output = folder.path() / "answers.json";
  const Result answered =
      run({"generate", "--model", base_model(), "--input", input, "--task", "another", "--task-prompts",
           folder.path() / "prompts.json", "--output", output, "--max-new-tokens", "2"});
  EXPECT_EQ(answered.code, 0) << answered.text;
  const auto lines = lines_of(output);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["task_dataset"], "one");
  EXPECT_FALSE(lines[1].contains("task_dataset")) << lines[1];
  const Result nameless = run({"generate", "--model", base_model(), "--input", input, "--task-prompts",
                               folder.path() / "prompts.json", "--output", folder.path() / "never"});
  EXPECT_EQ(nameless.code, 2);
  EXPECT_TRUE(says(nameless, "record q-1 names no task (--fields says which field does); give --task"))
      << nameless.text;
}

TEST(Records, OfAnInputAloneAreAnswered) {
  const TemporaryFolder folder;
  const fs::path input = write_lines(folder.path() / "questions.json", {{{"input", "患者"}}, {{"input", "头痛"}}});
  const auto answered = [&](const std::string& name, const std::vector<std::string>& more) {
    std::vector<std::string> words{
        "generate",           "--model",          base_model(), "--input", input.string(), "--output",
        folder.path() / name, "--max-new-tokens", "2"};
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  };
  EXPECT_EQ(answered("base", {}).code, 0);
  const Result without_adapter = answered("task", {"--task", "T"});
  EXPECT_EQ(without_adapter.code, 0);
  EXPECT_TRUE(says(without_adapter, "there is no --adapter")) << without_adapter.text;
  const std::string adapter = folder.path() / "imported";
  ASSERT_EQ(run({"import", "--adapter", fixtures() / "moelora-tiny", "--output", adapter}).code, 0);
  std::ifstream description(folder.path() / "imported" / "adapter.json");
  const std::string task = ordered_json::parse(description)["tasks"][0];
  const Result asked = answered("adapter", {"--adapter", adapter, "--task", task});
  EXPECT_EQ(asked.code, 0) << asked.text;
  EXPECT_EQ(lines_of(folder.path() / "adapter").size(), 2u);
  EXPECT_EQ(answered("never", {"--adapter", adapter}).code, 2);
  EXPECT_EQ(answered("never", {"--stream"}).code, 2);
  EXPECT_FALSE(fs::exists(folder.path() / "never"));
}

TEST(Plan, CallsAssumedWhatIsAssumed) {
  const TemporaryFolder folder;
  const fs::path config = folder.path() / "config.json";
  std::ofstream(config) << ordered_json{
      {"model", {{"path", base_model()}}},
      {"adapter", {{"rank", 2}, {"num_experts", 2}, {"task_embedding_dim", 4}}},
      {"data", {{"train", write_lines(folder.path() / "data.json", questions(6)).string()}, {"validation_size", 0}}},
      {"training", {{"steps", 5}, {"batch_size", 2}, {"memory_budget_gb", 1e300}}}};
  const Result plan = run({"inspect", "--plan", config});
  EXPECT_EQ(plan.code, 0) << plan.text;
  EXPECT_TRUE(says(plan, "assumed: all of the greatest length")) << plan.text;
  EXPECT_TRUE(says(plan, "of steps whose samples all have the assumed length")) << plan.text;
  EXPECT_FALSE(says(plan, "from the")) << plan.text;
  EXPECT_TRUE(says(plan, "1.00e+300 GB")) << plan.text;
  const Result dry = run({"train", "--config", config, "--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.text;
  EXPECT_TRUE(says(dry, "from the data of the first 5 steps")) << dry.text;
}

// Nothing is timed for a card that is not here: what is printed instead are assumptions.
TEST(Plan, IsMadeForCardsThatAreNotHere) {
  const TemporaryFolder folder;
  const std::string config = std::string(MOELORA_SOURCE_DIR) + "/configs/chatglm-6b-v100.json";
  for (const std::string card : {"v100-32gb", "v100-16gb"}) {
    const Result plan = run({"inspect", "--plan", "--card", card, config});
    EXPECT_EQ(plan.code, 0) << plan.text;
    for (const char* part :
         {"Tesla V100", "CUDA's context", "GB, assumed", "5 % of the activations", "50 % of the card's peak, assumed",
          "fits                     yes", "micro_batch_tokens"}) {
      EXPECT_TRUE(says(plan, part)) << part << " in " << plan.text;
    }
    EXPECT_FALSE(says(plan, "measured")) << plan.text;
  }
  EXPECT_TRUE(says(run({"inspect", "--plan", "--card", "v100", config}), "expected one of v100-16gb"));
  const Result small = run({"inspect", "--plan", "--card", "v100-16gb", config});
  EXPECT_TRUE(says(small, "--set training.micro_batch_tokens=")) << small.text;

  const fs::path own = folder.path() / "config.json";
  std::ofstream(own) << ordered_json{
      {"model", {{"path", base_model()}, {"dtype", "float16"}, {"device", "cuda"}}},
      {"adapter", {{"rank", 2}, {"num_experts", 2}, {"task_embedding_dim", 4}}},
      {"data", {{"train", write_lines(folder.path() / "data.json", questions(6)).string()}, {"validation_size", 0}}},
      {"training", {{"steps", 5}, {"batch_size", 2}}}};
  const Result dry = run({"train", "--config", own, "--dry-run", "--card", "v100-16gb"});
  EXPECT_EQ(dry.code, 0) << dry.text;
  EXPECT_TRUE(says(dry, "from the data of the first 5 steps")) << dry.text;
  EXPECT_TRUE(says(dry, "Tesla V100 16 GB, named by --card")) << dry.text;
}

}  // namespace
