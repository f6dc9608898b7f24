#include "moelora/eval/rouge.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "eval/metrics_fixture.h"
#include "moelora/eval/segmenter.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora::eval {
namespace {

void expect_rouge(const RougeScore& score, const nlohmann::json& expected) {
  EXPECT_NEAR(score.recall, expected["r"].get<double>(), 1e-12);
  EXPECT_NEAR(score.precision, expected["p"].get<double>(), 1e-12);
  EXPECT_NEAR(score.f, expected["f"].get<double>(), 1e-12);
}

void expect_all_rouge(const RougeScores& scores, const nlohmann::json& expected) {
  expect_rouge(scores.rouge_1, expected["rouge-1"]);
  expect_rouge(scores.rouge_2, expected["rouge-2"]);
  expect_rouge(scores.rouge_l, expected["rouge-l"]);
}

TEST(Rouge, EqualsThePythonPackageOnWordsAndCharacters) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  std::ifstream file(testing::metrics_fixture() / "rouge_pairs.json");
  const auto pairs = nlohmann::json::parse(file);
  ASSERT_EQ(pairs.size(), 20U);
  const CharacterSegmenter characters;
  for (const auto& pair : pairs) {
    const auto text = [&](const std::string& key) { return pair[key].get<std::string>(); };
    expect_all_rouge(rouge(text("jieba_prediction"), text("jieba_reference")), pair["rouge_jieba"]);
    expect_all_rouge(rouge(text("char_prediction"), text("char_reference")), pair["rouge_char"]);
    expect_all_rouge(
        rouge(join_tokens(characters.cut(text("prediction"))), join_tokens(characters.cut(text("reference")))),
        pair["rouge_char"]);
    expect_all_rouge(rouge_chinese(text("basic_tokens_prediction"), text("basic_tokens_reference")),
                     pair["rouge_chinese_basic"]);
    expect_all_rouge(rouge_chinese(text("char_prediction"), text("char_reference")), pair["rouge_chinese_char"]);
    expect_rouge(rouge_l(text("jieba_prediction"), text("jieba_reference")), pair["rouge_jieba"]["rouge-l"]);
  }
}

TEST(Rouge, IdenticalTextsFallShortOfOneByTheirDenominator) {
  const RougeScores scores = rouge("a b c", "a b c");
  EXPECT_DOUBLE_EQ(scores.rouge_l.precision, 1.0);
  EXPECT_DOUBLE_EQ(scores.rouge_l.f, 2.0 / (2.0 + 1e-8));
  EXPECT_NEAR(scores.rouge_2.f, 0.999999995, 1e-12);
}

TEST(Rouge, RepeatedWordsCountOnce) {
  const RougeScore score = rouge("a a a b", "a c").rouge_1;
  EXPECT_DOUBLE_EQ(score.precision, 0.5);
  EXPECT_DOUBLE_EQ(score.recall, 0.5);
}

TEST(Rouge, AFullStopEndsASentence) {
  // c d before a b: the common subsequence has two words as one sentence, four as two.
  EXPECT_DOUBLE_EQ(rouge_l("c d a b", "a b c d").recall, 0.5);
  EXPECT_DOUBLE_EQ(rouge_l("c d . a b", "a b . c d").recall, 1.0);
  EXPECT_DOUBLE_EQ(rouge("a.b", "a b").rouge_2.recall, 1.0);
}

TEST(Rouge, OfEquallyLongSubsequencesTheChoiceIsThePackages) {
  // Both "a" and "b" are longest; the way back through the table goes left first and meets b.
  EXPECT_DOUBLE_EQ(rouge_l("b a . b", "a b").recall, 0.5);
  EXPECT_DOUBLE_EQ(rouge_l("b a . a", "a b").recall, 1.0);
}

// Recorded from rouge_chinese 1.0.3.
TEST(RougeChinese, EqualsThePythonPackageOnMadeUpTexts) {
  const auto recorded = io::read_json_file(testing::fixtures() / "segmentation" / "rouge_chinese.json");
  ASSERT_GT(recorded.size(), 30U);
  for (const auto& pair : recorded) {
    SCOPED_TRACE(pair["answer"].get<std::string>() + " | " + pair["reference"].get<std::string>());
    expect_all_rouge(rouge_chinese(pair["answer"].get<std::string>(), pair["reference"].get<std::string>()),
                     pair["rouge"]);
  }
}

TEST(RougeChinese, RepeatedWordsCountRepeatedlyInRougeL) {
  const RougeScores scores = rouge_chinese("a a b", "a b b b");
  EXPECT_DOUBLE_EQ(scores.rouge_l.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(scores.rouge_l.recall, 0.5);
  EXPECT_DOUBLE_EQ(scores.rouge_1.precision, 1.0);
  EXPECT_DOUBLE_EQ(scores.rouge_1.recall, 1.0);
}

TEST(RougeChinese, TextWithoutWordsScoresZeroAndOverlongTextIsAnError) {
  EXPECT_EQ(rouge_chinese("", "a").rouge_l.f, 0.0);
  EXPECT_EQ(rouge_chinese("a", " \n").rouge_1.f, 0.0);
  std::string text;
  for (std::size_t i = 0; i <= kMaxRougeWords; ++i) text += "a ";
  EXPECT_THROW(rouge_chinese(text, "a"), Error);
}

TEST(Rouge, TextWithoutSentencesScoresZero) {
  EXPECT_EQ(rouge("", "a").rouge_l.f, 0.0);
  EXPECT_EQ(rouge("...", "a").rouge_1.f, 0.0);
  EXPECT_EQ(rouge("a", "").rouge_2.f, 0.0);
  // A sentence of white space is one empty word.
  EXPECT_DOUBLE_EQ(rouge(" ", "\u3000").rouge_1.recall, 1.0);
}

TEST(Rouge, OverlongTextIsAnError) {
  std::string text;
  for (std::size_t i = 0; i <= kMaxRougeWords; ++i) text += "a ";
  EXPECT_THROW(rouge_l(text, "a"), Error);
  EXPECT_THROW(rouge("a", text), Error);
}

TEST(Rouge, InvalidBytesAreCharacters) {
  EXPECT_EQ(CharacterSegmenter().cut("\xff\xe4\xb8\xad\xe4").size(), 3U);
  EXPECT_GT(rouge_l("\xff \xfe", "\xff").f, 0.0);
}

}  // namespace
}  // namespace moelora::eval
