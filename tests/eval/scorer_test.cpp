#include "moelora/eval/scorer.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/metrics_fixture.h"
#include "io/raises.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/resampling.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Records = std::vector<data::Record>;
using io::raises;
using testing::make_record;

template <typename Function>
std::string scoring_error(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// Numbers that don't depend on whether jieba's tables were fetched.
const CharacterSegmenter kCharacters;

void expect_reference_scores(const Scores& scores, const std::string& which) {
  std::ifstream file(testing::metrics_fixture() / "expected_metrics.json");
  const auto expected = nlohmann::json::parse(file)["moelora_evaluation"];
  ASSERT_EQ(expected.size(), 16U);
  for (const auto& [name, entry] : expected.items()) {
    const TaskScore* task = scores.find(name);
    ASSERT_NE(task, nullptr) << name;
    EXPECT_EQ(task->samples, 5) << name;
    if (task->segmented && scores.segmentation != "jieba") continue;
    const auto& numbers = entry[which];
    if (numbers.contains("f1")) {
      EXPECT_NEAR(task->score, numbers["f1"].get<double>(), 1e-12) << name;
      EXPECT_NEAR(*task->precision, numbers["precision"].get<double>(), 1e-12) << name;
      EXPECT_NEAR(*task->recall, numbers["recall"].get<double>(), 1e-12) << name;
      continue;
    }
    EXPECT_NEAR(task->score, numbers["score"].get<double>(), 1e-12) << name;
    ASSERT_EQ(task->labels.size(), numbers["labels"].size()) << name;
    for (std::size_t i = 0; i < task->labels.size(); ++i) {
      EXPECT_EQ(task->labels[i].label, numbers["labels"][i]) << name;
      EXPECT_NEAR(task->labels[i].f1, numbers["per_label_f1"][i].get<double>(), 1e-12) << name;
    }
  }
}

TEST(Scorer, EqualsTheReferenceOnEveryTaskWithWordsCutByJieba) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  const auto tables = find_jieba_tables();
  if (tables.empty()) GTEST_SKIP() << "jieba's tables are absent (bash -c '. cmake/setup.sh; moelora_jieba')";
  const JiebaSegmenter jieba(tables);
  const auto truth = data::read_records(testing::metrics_fixture() / "dev.json").records;
  const auto predictions = data::read_records(testing::metrics_fixture() / "dev_predictions.json").records;
  const Scores scores = score(truth, predictions, {}, jieba);
  expect_reference_scores(scores, "predictions");
  expect_reference_scores(score(truth, truth, {}, jieba), "truth_vs_itself");
  EXPECT_EQ(scores.segmentation, "jieba");
  EXPECT_EQ(segmentation_note(scores), "");
}

TEST(Scorer, EqualsTheBenchmarksOwnEvaluationOnEveryTask) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  const auto truth = data::read_records(testing::metrics_fixture() / "dev.json").records;
  const auto predictions = data::read_records(testing::metrics_fixture() / "dev_predictions.json").records;
  const Scores scores = score(truth, predictions, scorer_from_name("promptcblue"));
  std::ifstream file(testing::metrics_fixture() / "expected_metrics.json");
  const auto expected = nlohmann::json::parse(file)["promptcblue_evaluation"];
  ASSERT_EQ(expected.size(), 16U);
  for (const auto& [name, numbers] : expected.items()) {
    const TaskScore* task = scores.find(name);
    ASSERT_NE(task, nullptr) << name;
    if (numbers.contains("rougeL")) {
      EXPECT_NEAR(task->score, numbers["rougeL"].get<double>(), 1e-12) << name;
      EXPECT_NEAR(*task->rouge_1, numbers["rouge1"].get<double>(), 1e-12) << name;
      EXPECT_NEAR(*task->rouge_2, numbers["rouge2"].get<double>(), 1e-12) << name;
      continue;
    }
    EXPECT_NEAR(task->score, numbers["f1"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(*task->precision, numbers["precision"].get<double>(), 1e-12) << name;
    EXPECT_NEAR(*task->recall, numbers["recall"].get<double>(), 1e-12) << name;
  }
  EXPECT_EQ(scores.scorer, "promptcblue");
  EXPECT_EQ(segmentation_note(scores), "");
}

TEST(Scorer, EqualsTheReferenceOnEveryTaskWithoutWordSegmentation) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  const auto truth = data::read_records(testing::metrics_fixture() / "dev.json").records;
  const auto predictions = data::read_records(testing::metrics_fixture() / "dev_predictions.json").records;
  const Scores scores = score(truth, predictions, {}, kCharacters);
  expect_reference_scores(scores, "predictions");
  expect_reference_scores(score(truth, truth, {}, kCharacters), "truth_vs_itself");
  EXPECT_EQ(scores.samples, 80);
  std::int64_t segmented = 0;
  for (const TaskScore& task : scores.tasks) segmented += task.segmented ? 1 : 0;
  EXPECT_EQ(segmented, 2);
  EXPECT_EQ(scores.segmentation, "characters");
  EXPECT_NE(segmentation_note(scores).find("MedDG, IMCS-V2-MRG"), std::string::npos);
}

TEST(Scorer, ReferencesAgainstThemselvesHaveNothingUnparsable) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  const auto truth = data::read_records(testing::metrics_fixture() / "dev.json").records;
  EXPECT_EQ(score(truth, truth).unparsable, 0);
}

TEST(Scorer, RougeLIsAveragedOverSamplesAndSections) {
  const Records truth{make_record("MedDG", "甲乙"), make_record("MedDG", "丙"),
                      make_record("IMCS-V2-MRG", "引导\n主诉：甲\n诊断：乙")};
  const Records predictions{make_record("MedDG", "甲丁"), make_record("MedDG", ""),
                            make_record("IMCS-V2-MRG", "引导\n主诉：甲")};
  const Scores scores = score(truth, predictions, {}, kCharacters);
  EXPECT_NEAR(scores.find("MedDG")->score, 0.25, 1e-8);
  EXPECT_EQ(scores.find("MedDG")->unparsable, 1);
  EXPECT_NEAR(scores.find("IMCS-V2-MRG")->score, 0.5, 1e-8);
  EXPECT_NEAR(scores.average, 0.375, 1e-8);
}

TEST(Scorer, TheBracketOfClinicalTrialLabelsIsForgiven) {
  const Records truth{make_record("CHIP-CTC", "体征(医生检测）")};
  EXPECT_DOUBLE_EQ(score(truth, {make_record("CHIP-CTC", "体征(医生检测)")}).average, 1.0);
}

TEST(Scorer, TellsGarbageFromNone) {
  const std::vector<std::string> choices{"疾病"};
  const Records truth{make_record("CMeEE-V2", "没有实体", choices),
                      make_record("CMeEE-V2", "有：\n疾病实体：甲", choices)};
  const Records predictions{make_record("CMeEE-V2", "胡说", choices), make_record("CMeEE-V2", "没有实体", choices)};
  EXPECT_EQ(score(truth, predictions).unparsable, 1);
  const Records labels{make_record("KUAKE-IR", "相关", {"相关", "不相关"}), make_record("KUAKE-IR", "相关")};
  const Records answers{make_record("KUAKE-IR", "不相关", {"相关", "不相关"}), make_record("KUAKE-IR", "也许")};
  EXPECT_EQ(score(labels, answers).unparsable, 1);
}

TEST(Scorer, TasksOutsidePromptCblueAreScoredByLabelOrRouge) {
  data::Record by_type = make_record("情感", "好");
  by_type.task_type = "cls";
  const Records truth{by_type, make_record("选择", "甲", {"甲", "乙"}), make_record("摘要", "甲乙"),
                      make_record("CHIP-STS", "是的")};
  Records predictions = truth;
  predictions[0].target = "坏";
  predictions[2].target = "甲";
  const Scores scores = score(truth, predictions, {}, kCharacters);
  ASSERT_EQ(scores.tasks.size(), 4U);
  EXPECT_EQ(scores.tasks[0].task, "CHIP-STS");
  EXPECT_EQ(scores.find("情感")->metric, "micro-F1");
  EXPECT_DOUBLE_EQ(scores.find("情感")->score, 0.0);
  EXPECT_DOUBLE_EQ(scores.find("选择")->score, 1.0);
  EXPECT_EQ(scores.find("摘要")->metric, "Rouge-L");
  EXPECT_NEAR(scores.find("摘要")->score, 2.0 / 3, 1e-8);
}

TEST(Scorer, MajorityAnswersAreTheMostFrequentTargetsOfTraining) {
  const Records train{make_record("CHIP-STS", "不是"), make_record("CHIP-STS", "是的"), make_record("CHIP-STS", "是的"),
                      make_record("KUAKE-IR", "相关"), make_record("KUAKE-IR", "不相关")};
  const Records dev{make_record("CHIP-STS", "是的"), make_record("CHIP-STS", "不是"), make_record("KUAKE-IR", "相关")};
  const Records answers = majority_predictions(train, dev);
  EXPECT_EQ(answers[0].target, "是的");
  EXPECT_EQ(answers[1].target, "是的");
  EXPECT_EQ(answers[2].target, "相关");
  EXPECT_DOUBLE_EQ(majority_scores(train, dev).average, (0.5 + 1.0) / 2);
  const Records other{make_record("CHIP-STS", "是的"), make_record("KUAKE-QTR", "完全匹配")};
  EXPECT_TRUE(raises([&] { majority_scores(train, other); }, "found none to `KUAKE-QTR`"));
  const Records unscored{make_record("CHIP-STS", "是的"), make_record("KUAKE-QTR", "")};
  EXPECT_DOUBLE_EQ(majority_scores(train, unscored).average, 1.0);
}

TEST(Scorer, NamesAreKnownAndOthersAreErrors) {
  for (const char* name : {"moelora", "promptcblue", "paper"}) {
    EXPECT_EQ(scorer_from(name).name, name);
    const Records truth{make_record("CHIP-STS", "是的")};
    EXPECT_EQ(score(truth, truth, scorer_from(name)).scorer, name);
  }
  EXPECT_NE(scoring_error([] { scorer_from("bleu"); }).find("moelora, promptcblue, paper"), std::string::npos);
  const std::string near = scoring_error([] { scorer_from("promptcbleu"); });
  EXPECT_NE(near.find("did you mean \"promptcblue\""), std::string::npos) << near;
  EXPECT_NE(scoring_error([] { scorer_from("absent/scorers.json"); }).find("absent/scorers.json"), std::string::npos);
}

TEST(Scorer, ThePaperScoresTrialCriteriaByMacroF1AndAllElseAsMoelora) {
  // 年龄: p 1/2, r 1; 性别: p 1, r 1/2.
  const Records truth{make_record("CHIP-CTC", "年龄"),      make_record("CHIP-CTC", "性别"),
                      make_record("CHIP-CTC", "性别"),      make_record("CHIP-CTC", "体征(医生检测）"),
                      make_record("KUAKE-QTR", "完全匹配"), make_record("KUAKE-QTR", "部分匹配"),
                      make_record("KUAKE-QTR", "部分匹配")};
  Records predictions = truth;
  predictions[2].target = "年龄";
  predictions[3].target = "体征(医生检测)";
  predictions[4].target = "部分匹配";
  const Scores paper = score(truth, predictions, scorer_from_name("paper"));
  EXPECT_DOUBLE_EQ(paper.find("CHIP-CTC")->score, (2.0 / 3 + 2.0 / 3 + 1.0) / 3);
  EXPECT_EQ(paper.find("CHIP-CTC")->metric, "macro-F1");
  EXPECT_DOUBLE_EQ(paper.find("KUAKE-QTR")->score, 2.0 / 3);
  EXPECT_DOUBLE_EQ(score(truth, predictions).find("CHIP-CTC")->score, 0.75);
}

TEST(Scorer, TheBenchmarkComparesSetsAndWeighsLabels) {
  const std::vector<std::string> types{"疾病"};
  const Records truth{make_record("CMeEE-V2", "有：\n疾病实体：甲，乙", types),
                      make_record("CMeIE", "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。"),
                      make_record("KUAKE-IR", "相关"),
                      make_record("KUAKE-IR", "不相关"),
                      make_record("KUAKE-IR", "相关"),
                      make_record("CHIP-CTC", "体征(医生检测）")};
  Records predictions = truth;
  predictions[0].target = "有：\n疾病实体：甲，甲，丙";
  predictions[2].target = "";  // counts as the first label, which is right
  predictions[4].target = "不相关";
  predictions[5].target = "体征(医生检测)";  // another spelling is another label
  const Scores scores = score(truth, predictions, scorer_from_name("promptcblue"));
  EXPECT_DOUBLE_EQ(scores.find("CMeEE-V2")->score, 0.5);
  EXPECT_EQ(scores.find("CMeEE-V2")->metric, "set F1");
  EXPECT_DOUBLE_EQ(scores.find("CMeIE-V2")->score, 1.0);
  EXPECT_EQ(scores.find("CMeIE"), nullptr);
  // 相关: p 1, r 1/2, f 2/3, twice; 不相关: p 1/2, r 1, f 2/3.
  EXPECT_DOUBLE_EQ(scores.find("KUAKE-IR")->score, 2.0 / 3);
  EXPECT_EQ(scores.find("KUAKE-IR")->unparsable, 1);
  EXPECT_DOUBLE_EQ(scores.find("CHIP-CTC")->score, 0.0);
}

TEST(Scorer, TheBenchmarksRougeComparesTokensAndWeighsSectionsAlike) {
  const Records truth{make_record("MedDG", "甲乙"), make_record("MedDG", "甲 Abc"),
                      make_record("IMCS-V2-MRG", "引导\n主诉：甲\n诊断：乙"),
                      make_record("IMCS-V2-MRG", "引导\n主诉：丙")};
  const Records predictions{make_record("MedDG", "甲丁"), make_record("MedDG", ""),
                            make_record("IMCS-V2-MRG", "引导\n主诉：甲"), make_record("IMCS-V2-MRG", "引导\n主诉：丙")};
  const Scores scores = score(truth, predictions, scorer_from_name("promptcblue"));
  EXPECT_NEAR(scores.find("MedDG")->score, 0.25, 1e-8);
  EXPECT_NEAR(*scores.find("MedDG")->rouge_2, 0.0, 1e-8);
  EXPECT_EQ(scores.find("MedDG")->unparsable, 1);
  EXPECT_NEAR(scores.find("IMCS-V2-MRG")->score, 2.0 / 3, 1e-8);  // two of three sections
  const auto json = to_json(scores);
  EXPECT_NEAR(json["tasks"]["MedDG"]["rouge_1"].get<double>(), 0.25, 1e-8);
  EXPECT_FALSE(json["tasks"]["MedDG"].contains("segmentation"));
}

TEST(Scorer, HostileAnswersScoreZeroAndNeverFail) {
  std::string lines;
  for (int i = 0; i < 100'000; ++i) lines += "主诉：甲\n";
  const std::vector<std::string> answers{"", "\xff\xfe\xe4", std::string(1 << 20, 'x'), lines, "。。。", "..."};
  for (const TaskRule& rule : task_rules()) {
    Records truth;
    Records predictions;
    for (const std::string& answer : answers) {
      truth.push_back(make_record(std::string(rule.task), "引导\n主诉：甲\n疾病实体：甲", {"疾病"}));
      predictions.push_back(make_record(std::string(rule.task), answer, {"疾病"}));
    }
    const Scores scores = score(truth, predictions);
    EXPECT_GE(scores.average, 0.0) << rule.task;
    EXPECT_LT(scores.average, 0.5) << rule.task;
    EXPECT_NO_THROW(to_table(scores));
    for (const char* scorer : {R"({"default": "accuracy"})", R"({"default": "exact-match"})"}) {
      EXPECT_LT(score(truth, predictions, scorer_from_json(nlohmann::ordered_json::parse(scorer), "")).average, 0.5);
    }
    EXPECT_LT(score(truth, predictions, scorer_from_name("promptcblue")).average, 0.5) << rule.task;
  }
}

TEST(ScoreTable, ColumnsAlignWithEastAsianNames) {
  const Records truth{make_record("中文任务", "甲"), make_record("CHIP-STS", "是的")};
  const std::string table = to_table(score(truth, truth, {}, kCharacters));
  EXPECT_EQ(table.substr(0, table.find('\n')), "task      metric     score  precision  recall  samples  unparsable");
  EXPECT_NE(table.find("\n中文任务  Rouge-L   1.0000"), std::string::npos) << table;
  EXPECT_NE(table.find("\naverage             1.0000"), std::string::npos) << table;
  EXPECT_NE(table.find("jieba"), std::string::npos);
}

TEST(Scorer, RecordsWithoutATargetAreLeftOutAndCounted) {
  const Records truth{make_record("CHIP-STS", "是的", {}, "a"),
                      make_record("CHIP-STS", "", {}, "b"),
                      make_record("KUAKE-QIC", "病情诊断", {}, "c"),
                      make_record("KUAKE-QIC", " \n", {}, "d"),
                      make_record("MedDG", "", {}, "e"),
                      make_record("MedDG", "多喝水", {}, "f")};
  Records answers = truth;
  answers[1].target = "不是";
  answers[3].target = "注意事项";
  answers[5].target = "多喝";
  const CharacterSegmenter characters;
  const Scores scores = score(truth, answers, {}, characters);
  EXPECT_EQ(scores.samples, 3);
  EXPECT_EQ(scores.left_out.text(), "3 (b, d, e)");
  EXPECT_EQ(scores.find("CHIP-STS")->samples, 1);
  EXPECT_DOUBLE_EQ(scores.find("CHIP-STS")->score, 1.0);
  EXPECT_DOUBLE_EQ(scores.find("KUAKE-QIC")->score, 1.0);
  EXPECT_NEAR(scores.find("MedDG")->score, 0.8, 1e-8);
  const Scores without = score({truth[0], truth[2], truth[5]}, {answers[0], answers[2], answers[5]}, {}, characters);
  EXPECT_DOUBLE_EQ(scores.average, without.average);
  EXPECT_DOUBLE_EQ(ScoredRun::from(truth, answers, {}, characters).average(), without.average);
  for (const std::string& text : {to_table(scores), comparison_table({{"one", &scores}, {"two", &scores}})}) {
    EXPECT_NE(text.find("Scored: 3 of 6 records; left out, because they have no target: 3 (b, d, e).\n"),
              std::string::npos)
        << text;
  }
  EXPECT_EQ(to_json(scores)["samples"], 3);
  EXPECT_EQ(to_json(scores)["left_out"], 3);
  EXPECT_EQ(to_json(without)["left_out"], 0);
  EXPECT_EQ(to_table(without).find("left out"), std::string::npos);
}

TEST(Scorer, NothingToScoreAgainstIsAnError) {
  for (const char* task : {"CHIP-STS", "KUAKE-QIC", "CMeIE", "MedDG", "IMCS-V2-MRG", "another"}) {
    const Records truth{make_record(task, "", {"甲"}), make_record(task, "", {"甲"})};
    const std::string message = scoring_error([&] { score(truth, truth); });
    EXPECT_NE(message.find("found none in 2 records"), std::string::npos) << task << ": " << message;
    EXPECT_THROW(ScoredRun::from(truth, truth), Error) << task;
  }
}

TEST(Scorer, MajorityCountsOnlyAnswersThatAreThere) {
  const Records train{make_record("CHIP-STS", ""), make_record("CHIP-STS", ""), make_record("CHIP-STS", "是的")};
  const Records dev{make_record("CHIP-STS", "是的"), make_record("CHIP-STS", "")};
  EXPECT_EQ(majority_predictions(train, dev)[0].target, "是的");
  const Scores scores = majority_scores(train, dev);
  EXPECT_DOUBLE_EQ(scores.average, 1.0);
  EXPECT_EQ(scores.left_out.count, 1);
  EXPECT_THROW(majority_scores({train[0]}, dev), Error);
}

TEST(ScoreTable, ComparesSeveralRuns) {
  const Records truth{make_record("CHIP-STS", "是的"), make_record("KUAKE-IR", "相关")};
  Records wrong = truth;
  wrong[0].target = "不是";
  const Scores before = score(truth, wrong);
  const Scores after = score(truth, truth);
  EXPECT_EQ(comparison_table({{"before", &before}, {"after", &after}}),
            "task      metric    samples  before   after\n"
            "CHIP-STS  micro-F1        1  0.0000  1.0000\n"
            "KUAKE-IR  micro-F1        1  1.0000  1.0000\n"
            "average                      0.5000  1.0000\n");
}

TEST(ScoreJson, HasScoresMetricsAndCounts) {
  const Records truth{make_record("CHIP-STS", "是的"), make_record("MedDG", "甲")};
  const auto json = to_json(score(truth, truth, {}, kCharacters));
  EXPECT_EQ(json["scorer"], "moelora");
  EXPECT_EQ(json["tasks"]["CHIP-STS"]["score"], 1.0);
  EXPECT_EQ(json["tasks"]["CHIP-STS"]["labels"]["是的"]["samples"], 1);
  EXPECT_EQ(json["tasks"]["MedDG"]["segmentation"], "characters");
  EXPECT_TRUE(json.contains("note"));
  EXPECT_EQ(json["tasks"].begin().key(), "CHIP-STS");
}

}  // namespace
}  // namespace moelora::eval
