#include "moelora/eval/answers.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/metrics_fixture.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

// Objects compare without regard to the order of their keys, as Python's do.
nlohmann::json expected_structure(const std::string& name) {
  std::ifstream file(testing::metrics_fixture() / name);
  return nlohmann::json::parse(file);
}

nlohmann::json structure_of(const std::string& name, AnswerFormat format = AnswerFormat::moelora) {
  return nlohmann::json(structured_answers(data::read_records(testing::metrics_fixture() / name).records, format));
}

nlohmann::json parsed(const std::string& task, const std::string& answer,
                      const std::vector<std::string>& choices = {}) {
  return nlohmann::json(parse_answer(task, answer, choices));
}

TEST(Answers, StructuredPredictionsEqualTheReferencePostProcessor) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  EXPECT_EQ(structure_of("dev_predictions.json"), expected_structure("expected_structured_predictions_moelora.json"));
}

TEST(Answers, StructuredTruthEqualsTheReferencePostProcessor) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  EXPECT_EQ(structure_of("dev.json"), expected_structure("expected_structured_truth_moelora.json"));
}

TEST(Answers, EmptyAnswersAreStructuredAsTheReferencePostProcessorDoes) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  EXPECT_EQ(structure_of("test_predictions.json"),
            expected_structure("expected_structured_test_predictions_moelora.json"));
}

TEST(Answers, StructuredAnswersEqualTheBenchmarksPostProcessor) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  EXPECT_EQ(structure_of("dev_predictions.json", AnswerFormat::promptcblue),
            expected_structure("expected_structured_predictions_promptcblue.json"));
  EXPECT_EQ(structure_of("dev.json", AnswerFormat::promptcblue),
            expected_structure("expected_structured_truth_promptcblue.json"));
}

TEST(Answers, TheBenchmarkReadsMarksAsTheyAre) {
  const auto parse = [](const char* task, const char* answer) {
    return nlohmann::json(parse_answer(task, answer, {"疾病", "阳性"}, AnswerFormat::promptcblue));
  };
  EXPECT_EQ(parse("CMeEE-V2", "疾病实体：甲,乙，丙"),
            nlohmann::json::parse(R"([{"entity":"甲,乙","type":"疾病"},{"entity":"丙","type":"疾病"}])"));
  EXPECT_EQ(parse("CHIP-MDCFNPC", "引导\n咳：阳性\n热：也许\n痛:阳性"),
            nlohmann::json::parse(R"([{"entity":"咳","attr":"阳性"},{"entity":"热","attr":"不标注"}])"));
  EXPECT_EQ(scored_name("CMeIE", AnswerFormat::promptcblue), "CMeIE-V2");
  EXPECT_EQ(scored_name("CMeIE", AnswerFormat::moelora), "CMeIE");
}

TEST(Answers, PlainTextIsTakenAsItIsWhateverTheTask) {
  EXPECT_EQ(parse_answer("CMeEE-V2", " 疾病实体:甲,乙\n", {"疾病"}, AnswerFormat::plain), "疾病实体:甲,乙");
  EXPECT_EQ(parse_answer("其他", "x", {}, AnswerFormat::plain), "x");
}

TEST(Answers, EveryTaskOfPromptCblueHasARule) {
  EXPECT_EQ(task_rules().size(), 16U);
  for (const TaskRule& rule : task_rules()) EXPECT_EQ(find_task_rule(rule.task), &rule);
  EXPECT_EQ(find_task_rule("CMeIE-V2"), find_task_rule("CMeIE"));
  EXPECT_EQ(find_task_rule("其他"), nullptr);
}

TEST(Answers, UnknownTaskNamesTheKnownOnes) {
  try {
    parse_answer("CMeEE", "x", {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("`CMeEE`"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("IMCS-V2-SR"), std::string::npos);
  }
}

TEST(Answers, AtMostAHundredOfEachMarkBecomeFullWidth) {
  std::string answer;
  for (int i = 0; i < 101; ++i) answer += ",";
  std::string expected;
  for (int i = 0; i < 100; ++i) expected += "，";
  EXPECT_EQ(parsed("MedDG", answer), expected + ",");
}

TEST(Answers, LabelsLoseTheWhiteSpaceAroundThem) {
  EXPECT_EQ(parsed("KUAKE-QIC", "\u3000\n 病情诊断\u00a0\t"), "病情诊断");
  EXPECT_EQ(parsed("CHIP-STS", "相同"), "是的");
  EXPECT_EQ(parsed("CHIP-STS", "不同\n"), "不是");
}

TEST(Answers, EntitiesAreGroupedByChoiceAndKeepDuplicates) {
  const auto expected = nlohmann::json::parse(
      R"([{"entity":"b","type":"疾病"},{"entity":"b","type":"疾病"},{"entity":"a","type":"药物"}])");
  EXPECT_EQ(parsed("CMeEE-V2", "引导\n药物实体：a，\n疾病实体:b, b\n身体实体：c", {"疾病", "药物"}), expected);
}

TEST(Answers, RelationsNeedBothSides) {
  const auto expected = nlohmann::json::parse(R"([{"predicate":"病因","subject":"头","object":"尾"}])");
  EXPECT_EQ(parsed("CMeIE", "具有病因关系的头尾实体对如下：头实体为头，尾实体为尾。头实体为孤单。"), expected);
}

TEST(Answers, StandardTermsAreOfferedOnesWithoutDuplicates) {
  const auto expected =
      nlohmann::json::parse(R"([{"entity":"a","type":"normalization"},{"entity":"b","type":"normalization"}])");
  EXPECT_EQ(parsed("CHIP-CDN", "x\nb,a，b，未知", {"a", "b", "x"}), expected);
}

TEST(Answers, EveryLineAfterTheFirstIsAnEvent) {
  const auto expected = nlohmann::json::parse(
      R"([{"主体词":"痛","发生状态":"","描述词":["轻","钝"],"解剖部位":[]},{"主体词":"","发生状态":"","描述词":[],"解剖部位":[]}])");
  EXPECT_EQ(parsed("CHIP-CDEE", "引导\n主体词：痛；发生状态：；描述词：轻， 钝\n"), expected);
}

TEST(Answers, FindingsThatWereNotOfferedBecomeTheDefault) {
  const auto expected = nlohmann::json::parse(
      R"([{"entity":"咳","attr":"有"},{"entity":"热","attr":"无法根据上下文确定病人是否患有该症状"}])");
  EXPECT_EQ(parsed("IMCS-V2-SR", "引导\n咳:有\n热：也许\n没有结论\n三：个：部分", {"有"}), expected);
}

TEST(Answers, TheLastLineOfAReportSectionCounts) {
  const auto expected = nlohmann::json::parse(R"({"主诉":"咳","诊断":""})");
  EXPECT_EQ(parsed("IMCS-V2-MRG", "引导\n主诉：热\n主诉：咳\n诊断：\n其他：x"), expected);
}

TEST(Answers, HostileTextNeverFails) {
  std::string marks;
  for (int i = 0; i < 100'000; ++i) marks += "，：；";
  std::string lines;
  for (int i = 0; i < 200'000; ++i) lines += "a：\n";
  const std::vector<std::string> answers{"",
                                         "\n",
                                         "\n\n\n",
                                         "：",
                                         std::string(1 << 20, 'x'),
                                         marks,
                                         lines,
                                         "\xff\xfe\xe4\xb8",
                                         "\xe5\x85\xb7\xe6\n\x80\x80：\xc0",
                                         std::string("\0\0", 2),
                                         "具有",
                                         "关系的头尾实体对",
                                         "，尾实体为"};
  for (const TaskRule& rule : task_rules()) {
    for (const std::string& answer : answers) {
      EXPECT_NO_THROW(parse_answer(rule.task, answer, {"疾病", ""})) << rule.task;
      EXPECT_NO_THROW(parse_answer(rule.task, answer, {})) << rule.task;
      EXPECT_NO_THROW(parse_answer(rule.task, answer, {"疾病", ""}, AnswerFormat::promptcblue)) << rule.task;
    }
  }
}

}  // namespace
}  // namespace moelora::eval
