#include "moelora/eval/metrics.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace moelora::eval {
namespace {

using Labels = std::vector<std::string>;

TEST(Metrics, MicroF1OfSingleLabelsIsTheShareOfRightOnes) {
  const F1 f1 = micro_f1(Labels{"a", "b", "b", "c"}, Labels{"a", "b", "a", "z"});
  EXPECT_DOUBLE_EQ(f1.f1, 0.5);
  EXPECT_DOUBLE_EQ(f1.precision, 0.5);
  EXPECT_DOUBLE_EQ(f1.recall, 0.5);
}

TEST(Metrics, MacroF1CountsLabelsThatOccurOnlyInAnswers) {
  // a: p 1/2, r 1; b: p 1, r 1/2; z: 0.
  const F1 f1 = macro_f1(Labels{"a", "b", "b"}, Labels{"a", "b", "a"});
  EXPECT_DOUBLE_EQ(f1.f1, (2.0 / 3 + 2.0 / 3) / 2);
  EXPECT_DOUBLE_EQ(f1.precision, 0.75);
  EXPECT_DOUBLE_EQ(f1.recall, 0.75);
  EXPECT_DOUBLE_EQ(macro_f1(Labels{"a"}, Labels{"z"}).f1, 0.0);
  EXPECT_DOUBLE_EQ(macro_f1(Labels{"a", "a"}, Labels{"a", "z"}).f1, 1.0 / 3);
}

TEST(Metrics, LabelF1ListsTrueLabelsSorted) {
  const auto labels = label_f1(Labels{"b", "a", "b"}, Labels{"b", "z", "a"});
  ASSERT_EQ(labels.size(), 2U);
  EXPECT_EQ(labels[0].label, "a");
  EXPECT_DOUBLE_EQ(labels[0].f1, 0.0);
  EXPECT_EQ(labels[1].support, 2);
  EXPECT_DOUBLE_EQ(labels[1].f1, 2.0 / 3);
}

TEST(Metrics, ItemF1CountsDuplicates) {
  using Json = nlohmann::ordered_json;
  const std::vector<Json> truth{Json::parse(R"(["a","a","b"])"), Json::parse(R"(["c"])")};
  const std::vector<Json> answers{Json::parse(R"(["a","x","x"])"), Json::parse("[]")};
  // found a, a; missed b, c; wrong x, x.
  const F1 f1 = item_f1(truth, answers);
  EXPECT_DOUBLE_EQ(f1.precision, 0.5);
  EXPECT_DOUBLE_EQ(f1.recall, 0.5);
  EXPECT_DOUBLE_EQ(f1.f1, 0.5);
}

TEST(Metrics, WeightedF1CountsTrueLabelsAsOftenAsTheyOccur) {
  // a: p 1/2, r 1, f 2/3, once; b: p 1, r 1/2, f 2/3, twice; z is no true label.
  const F1 f1 = weighted_f1(Labels{"a", "b", "b"}, Labels{"a", "b", "a"});
  EXPECT_DOUBLE_EQ(f1.f1, 2.0 / 3);
  EXPECT_DOUBLE_EQ(f1.precision, (0.5 + 2 * 1.0) / 3);
  EXPECT_DOUBLE_EQ(f1.recall, (1.0 + 2 * 0.5) / 3);
  EXPECT_DOUBLE_EQ(weighted_f1(Labels{"a", "a"}, Labels{"a", "z"}).f1, 2.0 / 3);
  EXPECT_EQ(weighted_f1({}, {}).f1, 0.0);
}

TEST(Metrics, DistinctItemsCountOnce) {
  using Json = nlohmann::ordered_json;
  const ItemCounts counts = count_distinct_items(Json::parse(R"(["a","a","b"])"), Json::parse(R"(["a","x","x"])"));
  EXPECT_EQ(counts.found, 1);
  EXPECT_EQ(counts.missed, 1);
  EXPECT_EQ(counts.wrong, 1);
}

TEST(Metrics, NothingPredictedOrNothingToFindIsZero) {
  using Json = nlohmann::ordered_json;
  EXPECT_EQ(item_f1({Json::array()}, {Json::array()}).f1, 0.0);
  EXPECT_EQ(item_f1({Json::parse(R"(["a"])")}, {Json::array()}).f1, 0.0);
  EXPECT_EQ(micro_f1({}, {}).f1, 0.0);
  EXPECT_EQ(macro_f1({}, {}).f1, 0.0);
}

}  // namespace
}  // namespace moelora::eval
