#include "moelora/experiment/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

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

std::vector<Run> of_seeds(const std::vector<std::uint64_t>& seeds, Run run) {
  std::vector<Run> runs;
  for (const std::uint64_t seed : seeds) {
    run.seed = seed;
    runs.push_back(run);
  }
  return runs;
}

Results four_methods() {
  Results results;
  results.title = "four";
  results.references = testing::made_up_references({"CHIP-STS"}, 10);
  const std::vector<int> right{9, 5, 9, 7};
  for (std::size_t i = 0; i < right.size(); ++i) {
    MethodResults row;
    row.key = "row" + std::to_string(i);
    row.title = "Row " + std::to_string(i);
    row.runs = {right_of_ten(results.references, right[i])};
    results.methods.push_back(row);
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
  const WrittenReport report = written(four_methods());
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| **90.0** ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 2"), "| **90.0** ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 3"), "| *70.0* ("));
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 1"), "| 1 † | 50.0 ("));
  EXPECT_TRUE(contains(line_with(report.page, "<td>Row 0"), "<b>90.0</b><small>"));
  EXPECT_TRUE(contains(line_with(report.page, "<td>Row 3"), "<u>70.0</u><small>"));
  const std::string table = main_table(four_methods());
  EXPECT_TRUE(contains(line_with(table, "1  Row 0"), "90.0*")) << table;
  EXPECT_TRUE(contains(line_with(table, "4  Row 3"), "70.0+")) << table;
  EXPECT_TRUE(contains(line_with(table, "CHIP-STS"), "90.0*  50.0   90.0*  70.0+")) << table;
}

TEST(ExperimentReport, DifferencesAgainstTheBaselineHaveIntervals) {
  const WrittenReport report = written(four_methods());
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 1"), "| baseline | – |"));
  // Four of ten samples tell row 0 from row 1: the difference is a proportion of 0.4.
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| +40.0 (+10.0 to +70.0) | 0.")) << report.markdown;
  const auto json = nlohmann::json::parse(report.json);
  const auto& difference = json["rows"][0]["against_baseline"]["average"];
  EXPECT_NEAR(difference["value"].get<double>(), 0.4, 1e-12);
  EXPECT_LT(difference["low"].get<double>(), 0.2);
  EXPECT_GT(difference["high"].get<double>(), 0.6);
  EXPECT_TRUE(json["rows"][1]["against_baseline"].is_null());
}

TEST(ExperimentReport, AMethodOfOneSeedIsComparedOnThatSeedAndMarked) {
  Results results = four_methods();
  const auto& references = results.references;
  // The baseline's seed 2 has 2 right: row 0, of seed 2 alone, gains 7 on it, not 9 − mean(2, 5, 8).
  results.methods[1].runs = {right_of_ten(references, 5), right_of_ten(references, 2), right_of_ten(references, 8)};
  results.methods[1].runs[1].seed = 2;
  results.methods[1].runs[2].seed = 3;
  results.methods[0].runs = of_seeds({2}, right_of_ten(references, 9));
  results.methods[2].runs = of_seeds({1, 2, 3}, right_of_ten(references, 10));
  results.methods[3].runs = of_seeds({1, 2, 3}, right_of_ten(references, 5));
  results.single = "row1";
  const WrittenReport report = written(results);
  const auto json = nlohmann::json::parse(report.json);
  EXPECT_NEAR(json["rows"][0]["against_baseline"]["average"]["value"].get<double>(), 0.7, 1e-12);
  EXPECT_EQ(json["rows"][0]["against_baseline"]["average"]["seeds"], 1);
  EXPECT_EQ(json["rows"][2]["against_single"]["tasks"]["CHIP-STS"]["seeds"], 3);
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), ") | +70.0 (")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| 1 † | *90.0* (")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 2"), "| 3 | **100.0** (100.0–100.0) | **+50.0** ("));
  EXPECT_TRUE(contains(report.markdown, "† One seed: the intervals hold no variance between seeds."));
  EXPECT_TRUE(contains(report.markdown, "are too narrow: Row 0.\n")) << report.markdown;
  EXPECT_FALSE(contains(report.page, "<b>+70.0</b>"));
  EXPECT_TRUE(contains(report.page, "<b>+50.0</b>"));
  EXPECT_TRUE(contains(main_table(results), "† One seed"));
  results.methods[0].runs = of_seeds({1, 2, 3}, right_of_ten(references, 9));
  EXPECT_FALSE(contains(main_table(results), "†"));
}

TEST(ExperimentReport, BaseMajorityAndMethodsWithoutRunsAreNeverBest) {
  Results results = four_methods();
  results.methods[0].key = results.base = "untrained";
  results.methods[0].runs = {right_of_ten(results.references, 10)};
  results.methods[3].runs.clear();
  results.majority = eval::majority_scores(results.references, results.references);
  results.majority->average = results.majority->tasks[0].score = 1;
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 0"), "| 1 † | 100.0 (")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 1"), "| 1 † | *50.0* (")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 2"), "| 1 † | **90.0** (")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| Row 3"), "| – | – | – | – |")) << report.markdown;
  EXPECT_TRUE(contains(line_with(report.markdown, "| majority answer"), "| – | 100.0 | – | – |")) << report.markdown;
  EXPECT_TRUE(contains(report.markdown, "best of a column, Row 0 and the majority answer apart;"));
  EXPECT_TRUE(contains(line_with(main_table(results), "CHIP-STS"), "100.0   50.0+  90.0*"));
}

TEST(ExperimentReport, AChosenRateAtTheEdgeIsNamed) {
  Results results = made_up_results(2, 1, 4, 1);
  results.tunings.push_back({"Turned", {{1e-3, 0.4}, {1e-4, 0.2}, {3e-4, 0.3}}});
  results.tunings.push_back({"Nothing finite", {{1e-4, HUGE_VAL}}});
  const WrittenReport report = written(results);
  const std::string rates = report.markdown.substr(report.markdown.find("## Learning rates"));
  EXPECT_TRUE(contains(rates, "| MOELoRA (D) | 0.3100 | **0.2875** | diverged |")) << rates;
  EXPECT_TRUE(contains(rates, "| LoRA (Full) | 0.3000 | **0.2925** (at the edge) | – |")) << rates;
  EXPECT_TRUE(contains(rates, "| Turned | **0.2000** (at the edge) | 0.3000 | 0.4000 |")) << rates;
  EXPECT_TRUE(contains(rates, "a better one may lie beyond it (LoRA (Full), Turned).")) << rates;
  const auto json = nlohmann::json::parse(report.json);
  EXPECT_EQ(json["tunings"][0]["at_edge"], false);
  EXPECT_EQ(json["tunings"][1]["at_edge"], true);
  EXPECT_EQ(json["tunings"][3]["at_edge"], false);
  results.tunings.resize(1);
  EXPECT_FALSE(contains(written(results).markdown, "At the edge"));
}

TEST(ExperimentReport, CostsSayWhatTheyCover) {
  Results results = made_up_results(3, 1, 4, 1);
  results.methods[0].cost_note = "+ LoRA (Single)";
  results.methods[1].ms_per_token.reset();
  results.methods[1].step_ratio.reset();
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.markdown, "| step time, × |"));
  EXPECT_TRUE(contains(report.markdown, "| MOELoRA (D) | 2.0 h (+ LoRA (Single)) | 18.25 GiB |"));
  EXPECT_TRUE(contains(report.markdown, "| LoRA (Full) | 2.0 h | 18.25 GiB | – | – | 28.00 |")) << report.markdown;
  EXPECT_TRUE(contains(report.page, "2.0 h<small>+ LoRA (Single)</small>"));
  const auto json = nlohmann::json::parse(report.json);
  EXPECT_EQ(json["rows"][0]["cost_note"], "+ LoRA (Single)");
  EXPECT_TRUE(json["rows"][1]["ms_per_token"].is_null());
}

TEST(ExperimentReport, SweepsAreInOrderAndTheCommonSettingIsRinged) {
  Results results = made_up_results(2, 1, 6, 1);
  std::swap(results.sweeps[0], results.sweeps[3]);
  results.sweeps[1].reference = true;
  results.sweeps[1].runs = of_seeds({41, 42, 43}, results.sweeps[1].runs[0]);
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.page, "Ringed: the common setting, rank 8, from the table of scores."));
  const std::string ring = "r=\"7\" fill=\"none\"";
  const std::size_t found = report.page.find(ring);
  ASSERT_NE(found, std::string::npos);
  EXPECT_EQ(report.page.find(ring, found + 1), std::string::npos);
  EXPECT_TRUE(contains(report.markdown, "| rank 8 (common setting) | 8 | 3 |"));
  EXPECT_TRUE(contains(report.markdown, "| rank 16 | 16 | 1 † |"));
  const auto json = nlohmann::json::parse(report.json);
  const std::vector<std::int64_t> values{4, 8, 16, 32, 2, 4, 8};
  ASSERT_EQ(json["sweeps"].size(), values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(json["sweeps"][i]["value"], values[i]) << i;
    EXPECT_EQ(json["sweeps"][i]["reference"], i == 1) << i;
  }
  results.sweeps[1].reference = false;
  EXPECT_FALSE(contains(written(results).page, "Ringed"));
}

// 20 methods × 12 tasks: no HTML, every table as wide as its head, no table wider than the tasks and their method.
TEST(ExperimentReport, MarkdownReadsWithoutHtml) {
  Results results = made_up_results(20, 12, 6, 2);
  results.majority = eval::majority_scores(results.references, results.references);
  const std::string markdown = written(results).markdown;
  EXPECT_FALSE(contains(markdown, "<"));
  std::istringstream lines(markdown);
  std::size_t columns = 0, widest = 0, rows_by_task = 0;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("|")) {
      columns = 0;
      continue;
    }
    const auto bars = static_cast<std::size_t>(std::count(line.begin(), line.end(), '|'));
    if (columns == 0) columns = bars;
    EXPECT_EQ(bars, columns) << line;
    widest = std::max(widest, columns - 1);
    rows_by_task += columns == 14 ? 1 : 0;
  }
  EXPECT_EQ(widest, 13U);
  // Scores of 20 methods and the majority, intervals of 20, gains of 19; three heads of two lines.
  EXPECT_EQ(rows_by_task, 21U + 20 + 19 + 6);
}

TEST(ExperimentReport, ScoresInJsonAreTheScorersToTheLastDigit) {
  const Results results = made_up_results(3, 16, 12, 2);
  const auto json = nlohmann::json::parse(written(results).json);
  ASSERT_EQ(json["rows"].size(), 3U);
  double mean = 0;
  for (std::size_t run = 0; run < 2; ++run) {
    const eval::Scores scores = eval::score(results.references, results.methods[0].runs[run].predictions);
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

TEST(ExperimentReport, AnotherScorersScoresStandInEveryForm) {
  Results results = made_up_results(2, 16, 12, 1);
  results.scorer = eval::scorer_from_name("promptcblue");
  results.majority = eval::majority_scores(results.references, results.references, results.scorer);
  const auto json = nlohmann::json::parse(written(results).json);
  const eval::Scores scores = eval::score(results.references, results.methods[0].runs[0].predictions, results.scorer);
  EXPECT_EQ(json["scorer"], "promptcblue");
  for (const eval::TaskScore& task : scores.tasks) {
    EXPECT_NEAR(json["rows"][0]["runs"][0]["tasks"][task.task].get<double>(), task.score, 1e-12) << task.task;
  }
  const auto task = std::find_if(json["tasks"].begin(), json["tasks"].end(),
                                 [](const auto& entry) { return entry["task"] == "CHIP-CTC"; });
  ASSERT_NE(task, json["tasks"].end());
  EXPECT_EQ((*task)["metric"], "macro-F1");  // micro-F1 by the default scorer
  EXPECT_EQ(json["segmentation_note"], "");
}

TEST(ExperimentReport, NumbersComeBackFromJsonAsTheyWere) {
  Results results = made_up_results(2, 2, 6, 1);
  results.methods[0].learning_rate = 0.1 + 0.2;
  results.methods[0].validation_loss = 2.1 + 0.2;
  results.methods[0].training_seconds = 1.0 / 3;
  results.methods[1].step_ratio = Ratio{1.0 / 7, 1e-300, 12345.678901234567};
  const auto json = nlohmann::json::parse(written(results).json);
  EXPECT_EQ(json["rows"][0]["learning_rate"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json["rows"][0]["validation_loss"].get<double>(), 2.1 + 0.2);
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
  MethodResults bare;
  bare.key = "bare";
  bare.title = "Not yet";
  results.methods.push_back(bare);
  results.sweeps[1].runs.clear();
  results.new_tasks[0].entries[1].runs.clear();
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.markdown, "| Not yet | – | – | – | – |\n"));
  EXPECT_TRUE(contains(report.markdown, "| Not yet | – | – |\n"));
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
  for (MethodResults& row : planned.methods) row.runs.clear();
  for (SweepPoint& point : planned.sweeps) point.runs.clear();
  planned.new_tasks[0].entries.clear();
  const WrittenReport report = written(planned);
  EXPECT_TRUE(contains(report.markdown, "LoRA (Single) has no finished run"));
  EXPECT_TRUE(contains(report.markdown, "CHIP-CTC (micro-F1, 4)"));
  EXPECT_TRUE(contains(main_table(planned), "MOELoRA (D)"));
}

TEST(ExperimentReport, ParametersAreComparedApartFromTheGate) {
  Results results = made_up_results(8, 1, 6, 1);
  results.methods[1].trained_parameters = 30'000'000;
  results.methods[0].trained_parameters = 33'000'100;
  results.methods[0].gate_parameters = 100;
  const WrittenReport report = written(results);
  EXPECT_TRUE(contains(report.markdown, "| MOELoRA (D) | 33,000,100 | 0.535 % | 100 | +10.00 % | 0.0002 | 8,000 |"));
  EXPECT_TRUE(contains(report.markdown, "| LoRA (Full) | 30,000,000 | 0.486 % | 0 | 0.00 % |"));
  EXPECT_TRUE(contains(report.markdown, "| no (routed by token) |"));
  EXPECT_TRUE(contains(report.markdown, "| MOELoRA (D) | 2.0 h | 18.25 GiB | 1.010 × (1.000–1.040) | 31.50 | 28.00 |"));
}

TEST(ExperimentReport, SeesawCountsTasksWonAndLost) {
  Results results = four_methods();
  results.references = testing::made_up_references({"CHIP-STS", "KUAKE-IR"}, 10);
  results.methods[0].runs = of_seeds({1, 2}, right_of_two_tasks(results.references, 9, 3));
  results.methods[1].runs = of_seeds({1, 2}, right_of_two_tasks(results.references, 5, 5));
  results.methods[2].runs = {right_of_two_tasks(results.references, 5, 5)};
  results.methods[3].runs.clear();
  results.single = "row1";
  const std::string markdown = written(results).markdown;
  const std::string seesaw = markdown.substr(markdown.find("## Seesaw"));
  EXPECT_TRUE(contains(line_with(seesaw, "| Row 0 | +10.0 ("), "| 1 | 1 |")) << seesaw;
  EXPECT_TRUE(contains(seesaw, "| Row 0 | **+40.0** | −20.0 |\n")) << seesaw;
  EXPECT_TRUE(contains(seesaw, "| Row 2 † | 0.0 (0.0 to 0.0) | 0 | 0 |\n")) << seesaw;
  EXPECT_TRUE(contains(seesaw, "| Row 3 | – | – | – |\n")) << seesaw;
  EXPECT_FALSE(contains(seesaw.substr(0, seesaw.find("## Parameters")), "| Row 1 "));
}

TEST(ExperimentReport, TextIsEscapedAndNothingIsLoaded) {
  Results results = made_up_results(3, 2, 6, 1);
  results.title = "<script>alert(1)</script> & \"more\"";
  results.methods[0].title = "a|b <i>*c*</i>\n\xff";
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

// A whole grid: 16 methods on 16 tasks. MOELORA_KEEP_REPORT names a folder that keeps the page to look at.
TEST(ExperimentReport, AWholeGridIsOnePage) {
  Results results = made_up_results(16, 16, 59, 3);
  results.majority = eval::majority_scores(results.references, results.references);
  results.methods[9].runs.clear();
  results.methods[9].note = "not finished";
  const testing::TemporaryFolder folder;
  const char* kept = std::getenv("MOELORA_KEEP_REPORT");
  const std::filesystem::path path = kept == nullptr ? folder.path() : std::filesystem::path(kept);
  write_experiment_report(path, results);
  const std::string page = io::read_text_file(path / "results.html");
  EXPECT_TRUE(contains(page, "majority answer"));
  EXPECT_TRUE(contains(page, "<polygon"));
  EXPECT_LT(page.size(), 400'000U);
}

}  // namespace
}  // namespace moelora::experiment
