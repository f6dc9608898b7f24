#include "moelora/experiment/report.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "experiment/made_up.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::experiment {
namespace {

using testing::made_up_results;

struct WrittenReport {
  std::string json;
  std::string markdown;
  std::string page;
};

WrittenReport written(const Results& results) {
  const testing::TemporaryFolder folder;
  write_experiment_report(folder.path(), results);
  return {io::read_text_file(folder.path() / "results.json"), io::read_text_file(folder.path() / "results.md"),
          io::read_text_file(folder.path() / "results.html")};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// `right` of ten answers right, one task.
Run right_of_ten(const std::vector<data::Record>& references, int right) {
  Run run{1, references};
  for (std::size_t i = 0; i < references.size(); ++i) {
    if (static_cast<int>(i) >= right) run.predictions[i].target = "丁";
  }
  return run;
}

// The same for two tasks of ten samples.
Run right_of_two_tasks(const std::vector<data::Record>& references, int first, int second) {
  Run run{1, references};
  for (std::size_t i = 0; i < references.size(); ++i) {
    if (static_cast<int>(i % 10) >= (i < 10 ? first : second)) run.predictions[i].target = "丁";
  }
  return run;
}

Results four_rows() {
  Results results;
  results.title = "four";
  results.references = testing::made_up_references({"CHIP-STS"}, 10);
  const std::vector<int> right{9, 5, 9, 7};
  for (std::size_t i = 0; i < right.size(); ++i) {
    Row row;
    row.key = "row" + std::to_string(i);
    row.title = "Row " + std::to_string(i);
    row.runs = {right_of_ten(results.references, right[i])};
    results.rows.push_back(row);
  }
  results.baseline = "row1";
  return results;
}

// The first line of the text that holds `part`.
std::string line_with(const std::string& text, const std::string& part) {
  const std::size_t found = text.find(part);
  if (found == std::string::npos) return "";
  const std::size_t start = text.rfind('\n', found) + 1;
  return text.substr(start, text.find('\n', found) - start);
}

TEST(ExperimentReport, BestAndSecondBestAreMarkedAndEqualOnesShareTheMark) {
  const WrittenReport report = written(four_rows());
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| **90.0** ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 2"), "| **90.0** ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 3"), "| <u>70.0</u> ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 1"), "| 1 | 50.0 ("));
  EXPECT_TRUE(contains(line_with(report.page, "<td>Row 0"), "<b>90.0</b><small>"));
  EXPECT_TRUE(contains(line_with(report.page, "<td>Row 3"), "<u>70.0</u><small>"));
  const std::string table = main_table(four_rows());
  EXPECT_TRUE(contains(line_with(table, "1  Row 0"), "90.0*")) << table;
  EXPECT_TRUE(contains(line_with(table, "4  Row 3"), "70.0+")) << table;
  EXPECT_TRUE(contains(line_with(table, "CHIP-STS"), "90.0*  50.0   90.0*  70.0+")) << table;
}

TEST(ExperimentReport, DifferencesAgainstTheBaselineHaveIntervals) {
  const WrittenReport report = written(four_rows());
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 1"), "| baseline | – |"));
  // Four of ten samples tell row 0 from row 1: the difference is a proportion of 0.4.
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| **+40.0** (+10.0 to +70.0) | 0.")) << report.markdown;
  const auto json = nlohmann::json::parse(report.json);
  const auto& difference = json["rows"][0]["against_baseline"]["average"];
  EXPECT_NEAR(difference["value"].get<double>(), 0.4, 1e-12);
  EXPECT_LT(difference["low"].get<double>(), 0.2);
  EXPECT_GT(difference["high"].get<double>(), 0.6);
  EXPECT_TRUE(json["rows"][1]["against_baseline"].is_null());
}

TEST(ExperimentReport, ScoresInJsonAreTheScorersToTheLastDigit) {
  const Results results = made_up_results(3, 16, 12, 2);
  const auto json = nlohmann::json::parse(written(results).json);
  ASSERT_EQ(json["rows"].size(), 3U);
  double mean = 0;
  for (std::size_t run = 0; run < 2; ++run) {
    const eval::Scores scores = eval::score(results.references, results.rows[0].runs[run].predictions);
    mean += scores.average / 2;
    EXPECT_EQ(json["rows"][0]["runs"][run]["seed"], 41 + run);
    EXPECT_NEAR(json["rows"][0]["runs"][run]["average"].get<double>(), scores.average, 1e-12);
    for (const eval::TaskScore& task : scores.tasks) {
      EXPECT_NEAR(json["rows"][0]["runs"][run]["tasks"][task.task].get<double>(), task.score, 1e-12) << task.task;
    }
  }
  EXPECT_NEAR(json["rows"][0]["scores"]["average"]["value"].get<double>(), mean, 1e-12);
  EXPECT_EQ(json["tasks"].size(), 16U);
}

TEST(ExperimentReport, NumbersComeBackFromJsonAsTheyWere) {
  Results results = made_up_results(2, 2, 6, 1);
  results.rows[0].learning_rate = 0.1 + 0.2;
  results.rows[0].training_seconds = 1.0 / 3;
  results.rows[1].step_ratio = Ratio{1.0 / 7, 1e-300, 12345.678901234567};
  const auto json = nlohmann::json::parse(written(results).json);
  EXPECT_EQ(json["rows"][0]["learning_rate"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json["rows"][0]["training_seconds"].get<double>(), 1.0 / 3);
  EXPECT_EQ(json["rows"][1]["step_ratio"]["median"].get<double>(), 1.0 / 7);
  EXPECT_EQ(json["rows"][1]["step_ratio"]["low"].get<double>(), 1e-300);
  EXPECT_EQ(json["rows"][1]["step_ratio"]["high"].get<double>(), 12345.678901234567);
  EXPECT_EQ(json["base_parameters"], 6'173'286'400);
  EXPECT_EQ(json["expert_weights"][0]["weights"][1], nlohmann::json({0.3, 0.2, 0.1, 0.4}));
  EXPECT_TRUE(json["tunings"][0]["losses"][2]["validation_loss"].is_null());
  EXPECT_EQ(json["tunings"][0]["chosen"].get<double>(), 3e-4);
  EXPECT_EQ(json["new_tasks"][0]["entries"][0]["trained_parameters"], 72);
  EXPECT_EQ(json["sweeps"].size(), 7U);
}

TEST(ExperimentReport, WhatIsMissingIsADash) {
  Results results = made_up_results(3, 2, 6, 2);
  Row bare;
  bare.key = "bare";
  bare.title = "Not yet";
  results.rows.push_back(bare);
  results.sweeps[1].runs.clear();
  results.new_tasks[0].entries[1].runs.clear();
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(line_with(report.markdown, "| Not yet"), "| – | – | – | – | – | – |"));
  EXPECT_TRUE(contains(line_with(report.markdown, "| rank 8 | 8"), "| – | – | 14,680,064 |"));
  EXPECT_TRUE(contains(line_with(report.markdown, "| adapter from scratch"), "| – | – |"));
  EXPECT_TRUE(nlohmann::json::parse(report.json)["rows"][3]["scores"]["average"].is_null());
  EXPECT_TRUE(contains(line_with(main_table(results), "4  Not yet"), "–"));
  EXPECT_FALSE(contains(report.page, "nan"));
}

TEST(ExperimentReport, AnExperimentThatHasNotBegunStillHasAReport) {
  const WrittenReport empty = written({});
  EXPECT_TRUE(contains(empty.page, "</html>"));
  EXPECT_EQ(main_table({}), "no methods yet\n");
  Results planned = made_up_results(4, 3, 4, 1);
  for (Row& row : planned.rows) row.runs.clear();
  for (SweepPoint& point : planned.sweeps) point.runs.clear();
  planned.new_tasks[0].entries.clear();
  const WrittenReport report = written(planned);
  EXPECT_TRUE(contains(report.markdown, "LoRA (Single) has no finished run"));
  EXPECT_TRUE(contains(report.markdown, "CHIP-CTC (micro-F1, 4)"));
  EXPECT_TRUE(contains(main_table(planned), "MOELoRA (D)"));
}

TEST(ExperimentReport, ParametersAreComparedApartFromTheGate) {
  Results results = made_up_results(8, 1, 6, 1);
  results.rows[1].trained_parameters = 30'000'000;
  results.rows[0].trained_parameters = 33'000'100;
  results.rows[0].gate_parameters = 100;
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.markdown, "| MOELoRA (D) | 33,000,100 | 0.535 % | 100 | +10.00 % | 0.0002 | 8,000 |"));
  EXPECT_TRUE(contains(report.markdown, "| LoRA (Full) | 30,000,000 | 0.486 % | 0 | 0.00 % |"));
  EXPECT_TRUE(contains(report.markdown, "| no (routed by token) |"));
  EXPECT_TRUE(contains(report.markdown, "| MOELoRA (D) | 2.0 h | 18.25 GiB | 1.010 × (1.000–1.040) | 31.50 | 28.00 |"));
}

TEST(ExperimentReport, SeesawCountsTasksWonAndLost) {
  Results results = four_rows();
  results.references = testing::made_up_references({"CHIP-STS", "KUAKE-IR"}, 10);
  results.rows[0].runs = {right_of_two_tasks(results.references, 9, 3)};
  results.rows[1].runs = {right_of_two_tasks(results.references, 5, 5)};
  results.rows[2].runs = {right_of_two_tasks(results.references, 5, 5)};
  results.rows[3].runs.clear();
  results.single = "row1";
  const std::string markdown = written(results).markdown;
  const std::string seesaw = markdown.substr(markdown.find("## Seesaw"));
  EXPECT_TRUE(contains(line_with(seesaw, "| Row 0"), "| 1 | 1 | **+40.0** | −20.0 |")) << seesaw;
  EXPECT_TRUE(contains(line_with(seesaw, "| Row 2"), "| 0 | 0 | 0.0 | 0.0 |")) << seesaw;
  EXPECT_TRUE(contains(line_with(seesaw, "| Row 3"), "| – | – | – | – | – |")) << seesaw;
  EXPECT_FALSE(contains(seesaw.substr(0, seesaw.find("## Parameters")), "| Row 1 "));
}

TEST(ExperimentReport, TextIsEscapedAndNothingIsLoaded) {
  Results results = made_up_results(3, 2, 6, 1);
  results.title = "<script>alert(1)</script> & \"more\"";
  results.rows[0].title = "a|b <i>*c*</i>\n\xff";
  results.sweeps[0].parameter = "r<a>nk";
  results.notes = {"x < y"};
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.page, "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;more&quot;"));
  for (const char* outside : {"<script", "http://", "https://", "src=", "href=", "url(", "<i>*c", "r<a>nk"}) {
    EXPECT_FALSE(contains(report.page, outside)) << outside;
  }
  EXPECT_TRUE(contains(report.markdown, "| a\\|b &lt;i&gt;\\*c\\*&lt;/i&gt; \ufffd |"));
  EXPECT_TRUE(contains(report.markdown, "- x &lt; y"));
  EXPECT_NO_THROW(nlohmann::json::parse(report.json));
}

TEST(ExperimentReport, TheSameResultsGiveTheSameBytes) {
  const Results results = made_up_results(4, 5, 10, 3);
  const WrittenReport first = written(results);
  const WrittenReport again = written(results);
  EXPECT_EQ(first.json, again.json);
  EXPECT_EQ(first.markdown, again.markdown);
  EXPECT_EQ(first.page, again.page);
  EXPECT_EQ(main_table(results), main_table(results));
}

TEST(ExperimentReport, WrongShapesAreErrors) {
  Results twice = made_up_results(2, 1, 4, 1);
  twice.rows[1].key = twice.rows[0].key;
  EXPECT_THROW(main_table(twice), Error);
  Results fewer = made_up_results(2, 1, 4, 1);
  fewer.rows[0].runs[0].predictions.pop_back();
  EXPECT_THROW(main_table(fewer), Error);
  Results ragged = made_up_results(2, 2, 4, 1);
  ragged.expert_weights[0].weights[1].pop_back();
  EXPECT_THROW(main_table(ragged), Error);
}

// A whole grid: 16 methods on 16 tasks. MOELORA_KEEP_REPORT names a folder that keeps the page to look at.
TEST(ExperimentReport, AWholeGridTakesSeconds) {
  Results results = made_up_results(16, 16, 59, 3);
  results.majority = eval::majority_scores(results.references, results.references);
  results.rows[9].runs.clear();
  results.rows[9].note = "not finished";
  const testing::TemporaryFolder folder;
  const char* kept = std::getenv("MOELORA_KEEP_REPORT");
  const auto start = std::chrono::steady_clock::now();
  const std::filesystem::path path = kept == nullptr ? folder.path() : std::filesystem::path(kept);
  write_experiment_report(path, results);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("seconds", std::to_string(seconds));
  EXPECT_LT(seconds, 60);
  const std::string page = io::read_text_file(path / "results.html");
  EXPECT_TRUE(contains(page, "majority answer"));
  EXPECT_TRUE(contains(page, "<polygon"));
  EXPECT_LT(page.size(), 400'000U);
}

}  // namespace
}  // namespace moelora::experiment
