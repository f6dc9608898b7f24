// Which prediction belongs to which record.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "eval/metrics_fixture.h"
#include "io/raises.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Records = std::vector<data::Record>;
using io::raises;
using testing::make_record;

TEST(Matching, PredictionsBelongToTheSameQuestions) {
  Records truth{make_record("chat", "是的", {}, "a"), make_record("chat", "不是", {}, "b")};
  truth[0].history = {{"问", "答"}};
  truth[1].history = {{"别的问", "答"}};
  for (const bool with_ids : {true, false}) {
    for (data::Record& record : truth) {
      record.input = "继续";
      if (!with_ids) record.sample_id.clear();
    }
    const auto refuses = [&](const std::function<void(data::Record&)>& change) {
      Records predictions = truth;
      change(predictions[1]);
      return raises([&] { match_predictions(truth, predictions); }, with_ids ? "under sample_id b" : "at record 2");
    };
    EXPECT_TRUE(refuses([](data::Record& said) { said.input = "停"; }));
    EXPECT_TRUE(refuses([](data::Record& said) { said.history[0].first = "问"; }));
    truth[1].system = "短";
    EXPECT_TRUE(refuses([](data::Record& said) { said.system = "长"; }));
    EXPECT_TRUE(with_ids || refuses([](data::Record& said) { said.task = "other"; }));
    Records silent = truth;  // an answer by itself
    for (data::Record& said : silent) {
      said = make_record("", said.target, {}, said.sample_id);
      said.input.clear();
    }
    EXPECT_EQ(match_predictions(truth, silent), (std::vector<std::size_t>{0, 1}));
    silent[1].task = "other";  // one says its task, the other does not
    EXPECT_TRUE(raises([&] { match_predictions(truth, silent); }, "task `other`"));
  }
}

TEST(Matching, PredictionsAreMatchedBySampleIdInAnyOrder) {
  const Records truth{make_record("CHIP-STS", "是的", {}, "a"), make_record("CHIP-STS", "不是", {}, "b"),
                      make_record("KUAKE-IR", "相关", {}, "a")};
  Records predictions = truth;
  std::reverse(predictions.begin(), predictions.end());
  EXPECT_DOUBLE_EQ(score(truth, predictions).average, 1.0);
  predictions.front().sample_id = "c";
  EXPECT_TRUE(raises([&] { score(truth, predictions); }, "a (KUAKE-IR)"));
  predictions.front().sample_id = "a";
  predictions.push_back(make_record("CHIP-STS", "是的", {}, "unexpected"));
  EXPECT_TRUE(raises([&] { score(truth, predictions); }, "unexpected (CHIP-STS)"));
}

TEST(Matching, PredictionsWithoutUniqueIdsMustKeepTheOrder) {
  const Records truth{make_record("CHIP-STS", "是的"), make_record("KUAKE-IR", "相关")};
  EXPECT_TRUE(raises([&] { score(truth, {truth[0]}); }, "2 records"));
  EXPECT_TRUE(raises([&] { score(truth, {truth[1], truth[0]}); }, "record 1"));
  Records other = truth;
  other[1].input = "别的";
  EXPECT_TRUE(raises([&] { score(truth, other); }, "record 2"));
  EXPECT_THROW(score({}, {}), Error);
}

}  // namespace
}  // namespace moelora::eval
