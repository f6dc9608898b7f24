// `moelora eval --predictions … --scorer …`: a score for any task, and what is said about it.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/program.h"
#include "support/shared.h"

namespace scorer_program {
namespace {

using nlohmann::ordered_json;

using Ended = moelora::testing::Run;

class ScorerProgram : public ::testing::Test {
 protected:
  std::string path(const char* name) const { return (folder_.path() / name).string(); }

  void write(const char* name, const std::vector<ordered_json>& records) const {
    std::ofstream out(path(name));
    for (const ordered_json& record : records) out << record.dump() << "\n";
  }

  static ordered_json record(const char* task, const char* id, const char* target,
                             const std::vector<std::string>& choices = {}) {
    return {{"input", id},        {"target", target},     {"answer_choices", choices},
            {"task_type", "nlg"}, {"task_dataset", task}, {"sample_id", id}};
  }

  // Options of eval beside the two files; `environment` goes before the program.
  Ended eval(const std::string& options, const std::string& environment = "") const {
    return moelora::testing::output_of(environment + " " + moelora::testing::command_of({"eval"}) + " --data " +
                                       path("truth.json") + " --predictions " + path("answers.json") + " --json " +
                                       path("scores.json") + " " + options + " 2>&1");
  }

  ordered_json scores() const {
    std::ifstream file(path("scores.json"));
    return ordered_json::parse(file);
  }

  moelora::testing::TemporaryFolder folder_;
};

TEST_F(ScorerProgram, AFileGivesEachTaskItsMetric) {
  write("truth.json", {record("mood", "1", "good", {"good", "bad"}), record("mood", "2", "good", {"good", "bad"}),
                       record("mood", "3", "bad", {"good", "bad"}), record("capital", "4", "Paris")});
  write("answers.json", {record("mood", "1", "good"), record("mood", "2", "bad"), record("mood", "3", "awful"),
                         record("capital", "4", " Paris ")});
  std::ofstream(path("scorers.json"))
      << R"({"default": "exact-match", "tasks": {"mood": "accuracy", "moood": "macro-f1"}})";
  const Ended ended = eval("--scorer " + path("scorers.json"));
  ASSERT_EQ(ended.code, 0) << ended.text;
  EXPECT_NE(ended.text.find("`moood`, which no record has"), std::string::npos) << ended.text;
  EXPECT_DOUBLE_EQ(scores()["tasks"]["mood"]["score"].get<double>(), 1.0 / 3);
  EXPECT_EQ(scores()["tasks"]["mood"]["metric"], "accuracy");
  EXPECT_EQ(scores()["tasks"]["mood"]["unparsable"], 1);
  EXPECT_EQ(scores()["tasks"]["capital"]["score"], 1.0);
}

TEST_F(ScorerProgram, BadScorersAreBadInput) {
  write("truth.json", {record("mood", "1", "good")});
  write("answers.json", {record("mood", "1", "good")});
  std::ofstream(path("metric.json")) << R"({"default": "f1-macro"})";
  std::ofstream(path("task.json")) << R"({"tasks": {"mod": "accuracy"}})";
  for (const auto& [scorer, expected] : std::vector<std::pair<std::string, std::string>>{
           {"paperr", "did you mean \"paper\""},
           {path("metric.json"), "default: unknown metric `f1-macro`"},
           {path("task.json"), "no metric for the task `mood`, did you mean"},
           {path("absent.json"), "absent.json"}}) {
    const Ended ended = eval("--scorer " + scorer);
    EXPECT_EQ(ended.code, 2) << ended.text;
    EXPECT_NE(ended.text.find(expected), std::string::npos) << ended.text;
  }
}

TEST_F(ScorerProgram, WithoutWordsEveryOutputSaysThatCharactersAreCompared) {
  write("truth.json", {record("MedDG", "1", "多喝水"), record("MedDG", "2", "少吃糖")});
  write("answers.json", {record("MedDG", "1", "多喝茶"), record("MedDG", "2", "少吃糖")});
  const Ended ended = eval("--output " + path("report"), "MOELORA_JIEBA_DIR=");
  ASSERT_EQ(ended.code, 0) << ended.text;
  EXPECT_NE(ended.text.find("compares characters"), std::string::npos) << ended.text;
  EXPECT_EQ(scores()["segmentation"], "characters");
  EXPECT_NE(scores()["note"].get<std::string>().find("compares characters"), std::string::npos);
  for (const char* name : {"report/report.json", "report/report.txt", "report/report.html"}) {
    std::ifstream file(path(name));
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    EXPECT_NE(text.find("compares characters"), std::string::npos) << name;
  }
  const Ended wrong = eval("", "MOELORA_JIEBA_DIR=/nowhere");
  EXPECT_EQ(wrong.code, 2) << wrong.text;
  EXPECT_NE(wrong.text.find("/nowhere"), std::string::npos) << wrong.text;
}

}  // namespace
}  // namespace scorer_program
