#include "moelora/eval/report.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "eval/metrics_fixture.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using testing::make_record;

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

EvaluationReport sample_evaluation() {
  EvaluationReport report;
  report.title = "Scores <of> \"a model\"";
  report.facts = {{"model", "tiny & small"}};
  report.references = {make_record("CHIP-STS", "是的", {"是的", "不是"}, "1"), make_record("MedDG", "多喝水", {}, "2")};
  report.predictions = report.references;
  report.predictions[1].target = "<script>\xff";
  report.scores = score(report.references, report.predictions);
  return report;
}

TEST(EvaluationReport, WritesTableJsonPageAndPredictions) {
  const testing::TemporaryFolder folder;
  const EvaluationReport report = sample_evaluation();
  write_evaluation_report(folder.path(), report);
  const auto json = nlohmann::json::parse(text_of(folder.path() / "report.json"));
  EXPECT_EQ(json["scores"]["tasks"]["CHIP-STS"]["score"], 1.0);
  EXPECT_EQ(json["facts"]["model"], "tiny & small");
  EXPECT_NE(text_of(folder.path() / "report.txt").find("CHIP-STS  micro-F1  1.0000"), std::string::npos);
  const auto predictions = data::read_records(folder.path() / "predictions.json").records;
  ASSERT_EQ(predictions.size(), 2U);
  EXPECT_EQ(predictions[0].target, "是的");
  EXPECT_EQ(predictions[1].target, "<script>\ufffd");
}

TEST(EvaluationReport, PageIsSelfContainedAndEscaped) {
  const testing::TemporaryFolder folder;
  write_evaluation_report(folder.path(), sample_evaluation());
  const std::string page = text_of(folder.path() / "report.html");
  EXPECT_NE(page.find("Scores &lt;of&gt; &quot;a model&quot;"), std::string::npos);
  EXPECT_NE(page.find("&lt;script&gt;\ufffd"), std::string::npos);
  for (const char* outside : {"<script", "http://", "https://", "src=", "href=", "url("}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
}

TEST(EvaluationReport, SaysWhatWasLeftOutInEveryForm) {
  const testing::TemporaryFolder folder;
  EvaluationReport report = sample_evaluation();
  report.references.push_back(make_record("MedDG", "", {}, "no-target"));
  report.predictions.push_back(make_record("MedDG", "多喝水", {}, "no-target"));
  report.scores = score(report.references, report.predictions);
  write_evaluation_report(folder.path(), report);
  const auto json = nlohmann::json::parse(text_of(folder.path() / "report.json"));
  EXPECT_EQ(json["scores"]["samples"], 2);
  EXPECT_EQ(json["scores"]["left_out"], 1);
  for (const char* file : {"report.txt", "report.html"}) {
    EXPECT_NE(text_of(folder.path() / file).find("Scored: 2 of 3 records"), std::string::npos) << file;
    EXPECT_NE(text_of(folder.path() / file).find("no-target"), std::string::npos) << file;
  }
  EXPECT_EQ(data::read_records(folder.path() / "predictions.json").records.size(), 3U) << "answered all the same";
}

TEST(EvaluationReport, ComparesWithBeforeAndMajority) {
  const testing::TemporaryFolder folder;
  EvaluationReport report = sample_evaluation();
  report.before = score(report.references, {make_record("CHIP-STS", "不是"), make_record("MedDG", "")});
  report.majority = majority_scores(report.references, report.references);
  write_evaluation_report(folder.path(), report);
  const auto json = nlohmann::json::parse(text_of(folder.path() / "report.json"));
  EXPECT_EQ(json["after"]["tasks"]["CHIP-STS"]["score"], 1.0);
  EXPECT_EQ(json["before"]["tasks"]["CHIP-STS"]["score"], 0.0);
  EXPECT_EQ(json["majority"]["tasks"]["CHIP-STS"]["score"], 1.0);
  EXPECT_NE(text_of(folder.path() / "report.html").find("majority answer"), std::string::npos);
}

TEST(TrainingReport, DrawsCurvesWeightsAndScores) {
  const testing::TemporaryFolder folder;
  TrainingReport report;
  report.title = "训练";
  for (int step = 1; step <= 2000; ++step) report.training_loss.push_back({step, 3.0 / std::sqrt(step)});
  report.training_loss[10].loss = std::nan("");
  report.validation_loss = {{500, 0.4}, {1000, 0.3}};
  report.task_losses = {{"CHIP-STS", {{1, 2.0}, {2, 1.0}}}, {"MedDG", {{1, std::nan("")}}}};
  report.tasks = {"CHIP-STS", "MedDG"};
  report.expert_weights = {{0.25, 0.75}, {0.5, 0.5}};
  report.after = sample_evaluation().scores;
  write_training_report(folder.path(), report);
  const std::string page = text_of(folder.path() / "report.html");
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_NE(page.find("validation"), std::string::npos);
  EXPECT_NE(page.find("0.750"), std::string::npos);
  EXPECT_NE(page.find("expert 2"), std::string::npos);
  EXPECT_LT(page.size(), 100'000U);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "report.json"));
}

TEST(TrainingReport, AnEmptyRunStillHasAPage) {
  const testing::TemporaryFolder folder;
  write_training_report(folder.path(), {});
  EXPECT_NE(text_of(folder.path() / "report.html").find("</html>"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "report.json"));
  TrainingReport flat;
  flat.training_loss = {{1, 0.0}, {2, 0.0}};
  EXPECT_NO_THROW(write_training_report(folder.path(), flat));
  TrainingReport broken;
  broken.expert_weights = {{1.0}};
  EXPECT_THROW(write_training_report(folder.path(), broken), Error);
}

}  // namespace
}  // namespace moelora::eval
