// What is kept of a run that breaks off, and results that could not be written.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/questions.h"
#include "support/shared.h"

namespace {

using namespace moelora::testing::questions;
using moelora::testing::fixtures;
using moelora::testing::TemporaryFolder;

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

}  // namespace
