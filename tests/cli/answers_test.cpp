// Answers and scores as a user of `generate` and `eval` meets them: what is asked, what is scored, what is kept of a
// run that breaks off, and results that could not be written.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "cli/program.h"
#include "support/shared.h"

namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;
using moelora::testing::fixtures;
using moelora::testing::TemporaryFolder;

using Result = moelora::testing::Run;

/// What bash makes of the command, in which $MOELORA is the program.
Result shell(const std::string& command) {
  setenv("MOELORA", MOELORA_PROGRAM, 1);
  setenv("OMP_NUM_THREADS", "1", 1);
  return moelora::testing::output_of("exec bash -c " + moelora::testing::quoted("{ " + command + "\n} 2>&1"));
}

/// The program with these words; none of them holds a quote.
std::string command_of(const std::vector<std::string>& words) {
  std::string command = "\"$MOELORA\"";
  for (const std::string& word : words) {
    command += " \"" + word + "\"";
  }
  return command;
}

Result run(const std::vector<std::string>& words) { return shell(command_of(words)); }

std::string base_model() { return (fixtures() / "chatglm-tiny").string(); }

std::string content_of(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

std::vector<ordered_json> lines_of(const fs::path& file) {
  std::vector<ordered_json> lines;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(ordered_json::parse(line));
  }
  return lines;
}

ordered_json question(int number, const std::string& input) {
  return {{"input", input},     {"target", "是"},        {"answer_choices", {"是", "否"}},
          {"task_type", "cls"}, {"task_dataset", "one"}, {"sample_id", "q-" + std::to_string(number)}};
}

std::vector<ordered_json> questions(int count) {
  std::vector<ordered_json> records;
  for (int i = 0; i < count; ++i) {
    records.push_back(question(i, "患者" + std::to_string(i * 37) + (i % 3 == 0 ? "发热咳嗽" : "头痛")));
  }
  return records;
}

fs::path write_lines(const fs::path& file, const std::vector<ordered_json>& records) {
  std::ofstream stream(file);
  for (const ordered_json& record : records) {
    stream << record.dump() << "\n";
  }
  return file;
}

bool says(const Result& result, const std::string& text) { return result.text.find(text) != std::string::npos; }

// ---- what is kept of a run that breaks off

std::vector<std::string> answering(const fs::path& input, const fs::path& output,
                                   const std::vector<std::string>& more = {}) {
  std::vector<std::string> words{"generate",        "--model",  base_model(), "--input", input,          "--output",
                                 output.string(),   "--sample", "--seed",     "5",       "--batch-size", "4",
                                 "--max-new-tokens"};
  words.push_back("6");
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(BrokenOffRun, OfGenerateGoesOnToTheSameBytes) {
  const TemporaryFolder folder;
  const fs::path input = write_lines(folder.path() / "questions.json", questions(120));
  const fs::path whole = folder.path() / "whole.json";
  const fs::path output = folder.path() / "new" / "answers.json";
  const fs::path partial = output.string() + ".partial";
  ASSERT_EQ(run(answering(input, whole)).code, 0);
  EXPECT_FALSE(fs::exists(whole.string() + ".partial"));

  // No file may grow beyond 8 KiB: a full disk in the middle of the run.
  const Result broken = shell("ulimit -f 8; " + command_of(answering(input, output)));
  EXPECT_EQ(broken.code, 2) << broken.text;
  EXPECT_TRUE(says(broken, "the answers so far are kept")) << broken.text;
  EXPECT_TRUE(says(broken, "--resume")) << broken.text;
  EXPECT_FALSE(fs::exists(output));
  const std::string kept = content_of(partial);
  const auto answers = std::count(kept.begin(), kept.end(), '\n') - 1;
  EXPECT_GT(answers, 20);
  EXPECT_LT(answers, 120);

  const Result anew = run(answering(input, output));
  EXPECT_EQ(anew.code, 2);
  EXPECT_TRUE(says(anew, "go on with --resume")) << anew.text;
  const Result otherwise = run(answering(input, output, {"--resume", "--top-k", "3"}));
  EXPECT_EQ(otherwise.code, 2);
  EXPECT_TRUE(says(otherwise, "top_k: 0, now 3")) << otherwise.text;
  const fs::path changed = write_lines(folder.path() / "changed.json", questions(119));
  const Result other_records = run(answering(changed, output, {"--resume"}));
  EXPECT_EQ(other_records.code, 2);
  EXPECT_TRUE(says(other_records, "records: 120, now 119")) << other_records.text;
  EXPECT_EQ(content_of(partial), kept) << "a refused run leaves what is there";

  const Result resumed = run(answering(input, output, {"--resume"}));
  EXPECT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_TRUE(says(resumed, "going on after " + std::to_string(answers) + " answers")) << resumed.text;
  EXPECT_EQ(content_of(output), content_of(whole));
  EXPECT_FALSE(fs::exists(partial));
  const Result again = run(answering(input, output, {"--resume"}));
  EXPECT_EQ(again.code, 2);
  EXPECT_TRUE(says(again, "exists already")) << again.text;
}

TEST(BrokenOffRun, ATornLineIsDroppedAndADamagedOneNamed) {
  const TemporaryFolder folder;
  const fs::path input = write_lines(folder.path() / "questions.json", questions(120));
  const fs::path whole = folder.path() / "whole.json";
  const fs::path output = folder.path() / "answers.json";
  const fs::path partial = output.string() + ".partial";
  ASSERT_EQ(run(answering(input, whole)).code, 0);
  ASSERT_EQ(shell("ulimit -f 8; " + command_of(answering(input, output))).code, 2);
  const std::string kept = content_of(partial).substr(0, content_of(partial).rfind('\n') + 1);

  std::ofstream(partial) << "{\"record\":1}\n" << kept;
  const Result damaged = run(answering(input, output, {"--resume"}));
  EXPECT_EQ(damaged.code, 2);
  EXPECT_TRUE(says(damaged, ".partial:1: ")) << damaged.text;
  std::ofstream(partial) << "notes of mine";
  EXPECT_EQ(run(answering(input, output)).code, 2);
  EXPECT_EQ(content_of(partial), "notes of mine") << "a file that is not ours";

  for (const std::string torn : {"", "{", "{\"record\":3,\"answer\":\"胃"}) {
    fs::remove(output);
    std::ofstream(partial) << kept << torn;
    const Result resumed = run(answering(input, output, {"--resume"}));
    EXPECT_EQ(resumed.code, 0) << resumed.text;
    EXPECT_EQ(content_of(output), content_of(whole)) << torn;
  }
  // A run that was killed before its first answer is no obstacle.
  fs::remove(output);
  std::ofstream(partial) << kept.substr(0, 40);
  EXPECT_EQ(run(answering(input, output)).code, 0);
  EXPECT_EQ(content_of(output), content_of(whole));
}

TEST(BrokenOffRun, OfEvalGoesOnToTheSameBytes) {
  const TemporaryFolder folder;
  const fs::path data = write_lines(folder.path() / "data.json", questions(120));
  const auto evaluating = [&](const fs::path& output, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"eval", "--model",      base_model(), "--data",           data, "--output",
                                   output, "--batch-size", "4",          "--max-new-tokens", "6"};
    words.insert(words.end(), more.begin(), more.end());
    return command_of(words);
  };
  const fs::path whole = folder.path() / "whole";
  const fs::path output = folder.path() / "scores";
  ASSERT_EQ(shell(evaluating(whole)).code, 0);
  const Result broken = shell("ulimit -f 8; " + evaluating(output));
  EXPECT_EQ(broken.code, 2) << broken.text;
  EXPECT_TRUE(fs::exists(output / "answers.partial"));
  const Result anew = shell(evaluating(output));
  EXPECT_EQ(anew.code, 2);
  EXPECT_TRUE(says(anew, "--resume")) << anew.text;

  const int lock = ::open((output / ".lock").c_str(), O_RDWR | O_CREAT, 0666);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  const Result second = shell(evaluating(output, {"--resume"}));
  EXPECT_EQ(second.code, 2);
  EXPECT_TRUE(says(second, "is in use by")) << second.text;
  ::close(lock);

  const Result resumed = shell(evaluating(output, {"--resume"}));
  EXPECT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_EQ(content_of(output / "predictions.json"), content_of(whole / "predictions.json"));
  auto scores = ordered_json::parse(content_of(output / "report.json"));
  auto expected = ordered_json::parse(content_of(whole / "report.json"));
  scores["facts"].erase("time");
  expected["facts"].erase("time");
  EXPECT_EQ(scores, expected);
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(output)) files.insert(entry.path().filename());
  EXPECT_EQ(files, (std::set<std::string>{"predictions.json", "report.html", "report.json", "report.txt"}));
  EXPECT_TRUE(says(shell(evaluating(output, {"--resume"})), "one that is finished"));
}

// ---- results that can't be written

TEST(Output, IsOpenedBeforeTheModelIsLoaded) {
  const TemporaryFolder folder;
  const fs::path data = write_lines(folder.path() / "data.json", questions(2));
  std::ofstream(folder.path() / "file") << "a file";
  const fs::path impossible = folder.path() / "file" / "answers";
  for (const std::string& output : {impossible.string(), std::string("/dev/full"), std::string("/proc/answers")}) {
    for (const Result& result : {run({"generate", "--model", "/no/such/model", "--input", data, "--output", output}),
                                 run({"eval", "--model", "/no/such/model", "--data", data, "--output", output})}) {
      EXPECT_EQ(result.code, 2);
      EXPECT_TRUE(says(result, output)) << result.text;
      EXPECT_FALSE(says(result, "/no/such/model")) << result.text;
    }
  }
  const Result json = run({"eval", "--model", "/no/such/model", "--data", data, "--output", folder.path() / "scores",
                           "--json", impossible});
  EXPECT_EQ(json.code, 2);
  EXPECT_TRUE(says(json, folder.path() / "file")) << json.text;
  EXPECT_FALSE(says(json, "/no/such/model")) << json.text;
  EXPECT_FALSE(fs::exists(folder.path() / "scores")) << "nothing was answered";
}

TEST(Output, ThatDoesNotArriveIsAnError) {
  const TemporaryFolder folder;
  const fs::path data = write_lines(folder.path() / "data.json", questions(2));
  const fs::path experiment = folder.path() / "experiment.json";
  std::ofstream(experiment) << ordered_json{{"model", {{"path", base_model()}}},
                                            {"data", {{"train", data.string()}, {"validation_size", 0}}},
                                            {"evaluation", data.string()},
                                            {"training", {{"steps", 1}}},
                                            {"methods", {"base"}}};
  const std::vector<std::vector<std::string>> verbs{
      {"--help"},
      {"--version"},
      {"generate", "--model", base_model(), "--prompt", "患者", "--max-new-tokens", "2"},
      {"generate", "--model", base_model(), "--prompt", "患者", "--max-new-tokens", "2", "--stream"},
      {"eval", "--predictions", data, "--data", data},
      {"inspect", base_model()},
      {"verify", fixtures() / "tokenizer"},
      {"experiment", "--config", experiment, "--list"},
  };
  for (const auto& words : verbs) {
    const std::string command = command_of(words);
    EXPECT_EQ(shell(command + " > /dev/null").code, 0) << command;
    const Result full = shell(command + " > /dev/full");
    EXPECT_EQ(full.code, 2) << command << full.text;
    EXPECT_TRUE(says(full, "cannot write the results to standard output") || says(full, "nobody reads")) << full.text;
    EXPECT_EQ(shell(command + " >&-").code, 2) << command;
    // The reader is gone before the first word.
    const Result closed = shell("{ sleep 0.2; " + command + "; echo \"code $?\" > " + folder.path().string() +
                                "/code; } | true; cat " + folder.path().string() + "/code");
    EXPECT_TRUE(says(closed, "code 2")) << command << closed.text;
  }
}

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
  EXPECT_TRUE(says(nameless, "record q-1 has no \"task_dataset\"; give --task")) << nameless.text;
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
  EXPECT_EQ(answered("task", {"--task", "T"}).code, 0);
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

}  // namespace
