// Scorers that a file describes.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "eval/metrics_fixture.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Records = std::vector<data::Record>;
using testing::make_record;

template <typename Function>
std::string scoring_problems(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const CharacterSegmenter kByCharacters;

Scorer listed(const char* json) { return scorer_from_json(nlohmann::ordered_json::parse(json), "scorers.json"); }

TEST(ScorerFile, ChoicesAreComparedWithoutCaseAndAFullStop) {
  const std::vector<std::string> choices{"True", "False", "Not known"};
  const std::vector<std::pair<std::string, double>> answers{{"True", 1},   {" true.\n", 1},     {"TRUE", 1},
                                                            {"True .", 1}, {"False", 0},        {"truely", 0},
                                                            {"", 0},       {"True, because", 0}};
  for (const auto& [answer, right] : answers) {
    const Records truth{make_record("claim", "True", choices)};
    Records predictions = truth;
    predictions.front().target = answer;
    const Scores scores = score(truth, predictions, listed(R"({"default": "choice-accuracy"})"), kByCharacters);
    EXPECT_EQ(scores.tasks.front().score, right) << answer;
    EXPECT_EQ(scores.tasks.front().metric, "accuracy of choices");
    EXPECT_EQ(scores.unparsable, right == 0 && answer != "False" ? 1 : 0) << answer;
  }
  // Without choices the right answer is the only one that is known.
  const Records truth{make_record("capital", "Rome")};
  Records predictions = truth;
  predictions.front().target = "rome.";
  EXPECT_EQ(score(truth, predictions, listed(R"({"default": "choice-accuracy"})"), kByCharacters).average, 1.0);
}

TEST(ScorerFile, EachTaskHasItsMetric) {
  const std::vector<std::string> choices{"good", "bad"};
  const Records truth{
      make_record("mood", "good", choices), make_record("mood", "good", choices),  make_record("mood", "bad", choices),
      make_record("grade", "bad", choices), make_record("grade", "good", choices), make_record("capital", "Paris"),
      make_record("capital", "Rome"),       make_record("summary", "甲乙"),        make_record("CMeEE-V2", "甲,乙")};
  Records predictions = truth;
  predictions[1].target = "bad";
  predictions[4].target = "splendid";  // was not offered
  predictions[5].target = " Paris\n";
  predictions[6].target = "rome";
  predictions[7].target = "甲";
  predictions[8].target = "甲，乙";
  const Scorer scorer =
      listed(R"({"default": "exact-match", "tasks": {"mood": "macro-f1", "grade": "accuracy", "summary": "rouge-l"}})");
  const Scores scores = score(truth, predictions, scorer, kByCharacters);
  // good: p 1, r 1/2; bad: p 1/2, r 1.
  EXPECT_DOUBLE_EQ(scores.find("mood")->score, 2.0 / 3);
  EXPECT_EQ(scores.find("mood")->metric, "macro-F1");
  EXPECT_DOUBLE_EQ(scores.find("grade")->score, 0.5);
  EXPECT_EQ(scores.find("grade")->metric, "accuracy");
  EXPECT_EQ(scores.find("grade")->unparsable, 1);
  EXPECT_EQ(scores.find("grade")->labels.size(), 2U);
  EXPECT_DOUBLE_EQ(scores.find("capital")->score, 0.5);
  EXPECT_EQ(scores.find("capital")->metric, "exact match");
  EXPECT_EQ(scores.find("capital")->unparsable, 0);
  EXPECT_NEAR(scores.find("summary")->score, 2.0 / 3, 1e-8);
  EXPECT_DOUBLE_EQ(scores.find("CMeEE-V2")->score, 0.0) << "the benchmark's own rule is not asked";
  EXPECT_EQ(scores.scorer, "scorers.json");
}

TEST(ScorerFile, ChoicesOfTheRecordsSayWhatAnAnswerIs) {
  const Records truth{make_record("t", "a", {" a", "b "}), make_record("t", "b"), make_record("t", "c", {"c", "d"})};
  Records predictions = truth;
  for (data::Record& record : predictions) record.answer_choices.clear();
  predictions[0].target = "b";
  predictions[1].target = "e";
  predictions[2].target = "a";
  for (const char* metric : {"accuracy", "macro-f1"}) {
    const Scores scores = score(truth, predictions, listed((std::string(R"({"default": ")") + metric + "\"}").c_str()));
    EXPECT_DOUBLE_EQ(scores.average, 0.0) << metric;
    EXPECT_EQ(scores.unparsable, 2) << metric;  // e is no label of the task; a was not offered to the third
  }
  const Scores matches = score(truth, predictions, listed(R"({"default": "exact-match"})"));
  EXPECT_EQ(matches.unparsable, 1);
}

TEST(ScorerFile, EveryProblemIsNamed) {
  const std::string text = scoring_problems(
      [] { listed(R"({"defaults": "accuracy", "tasks": {"a": "macrof1", "b": 3, "c": "rouge-l"}})"); });
  EXPECT_NE(text.find("scorers.json"), std::string::npos) << text;
  EXPECT_NE(text.find("defaults: unknown key, did you mean \"default\""), std::string::npos) << text;
  EXPECT_NE(text.find("tasks.a: unknown metric `macrof1`, did you mean \"macro-f1\""), std::string::npos) << text;
  EXPECT_NE(text.find("tasks.b: expected"), std::string::npos) << text;
  EXPECT_EQ(text.find("tasks.c"), std::string::npos) << text;
  for (const char* bad : {"{}", "[]", "3", R"({"tasks": {}})", R"({"tasks": ["a"]})", R"({"default": "moelora"})"}) {
    EXPECT_NE(scoring_problems([&] { listed(bad); }), "") << bad;
  }
}

TEST(ScorerFile, ATaskWithoutAMetricIsAnErrorBeforeAnythingIsScored) {
  const Records records{make_record("sentiment", "good")};
  const Scorer scorer = listed(R"({"tasks": {"sentiments": "accuracy"}})");
  for (const std::string& text : {scoring_problems([&] { check_scorer(scorer, records); }),
                                  scoring_problems([&] { score(records, records, scorer); })}) {
    EXPECT_NE(text.find("`sentiment`, did you mean \"sentiments\""), std::string::npos) << text;
  }
  EXPECT_NO_THROW(check_scorer(listed(R"({"default": "accuracy", "tasks": {"other": "rouge-l"}})"), records));
}

TEST(ScorerFile, TheMajorityAnswerIsScoredByTheSameMetric) {
  const Records train{make_record("t", "a"), make_record("t", "a"), make_record("t", "b")};
  const Records dev{make_record("t", "a"), make_record("t", "b")};
  EXPECT_DOUBLE_EQ(majority_scores(train, dev, listed(R"({"default": "macro-f1"})")).average, 1.0 / 3);
}

TEST(ScorerFile, TheExampleIsOne) {
  const Scorer scorer = scorer_from(std::string(MOELORA_SOURCE_DIR) + "/configs/scorers.json");
  EXPECT_TRUE(scorer.others.has_value());
  EXPECT_FALSE(scorer.tasks.empty());
}

}  // namespace
}  // namespace moelora::eval
