#include "moelora/eval/resampling.h"

#include <cmath>
#include <numeric>
#include <set>

#include "eval/metrics_fixture.h"
#include "moelora/data/random.h"
#include "moelora/eval/scorer.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Records = std::vector<data::Record>;
using testing::make_record;

// Every kind of metric, each with right, wrong, partly right and unreadable answers.
struct MadeUp {
  Records references;
  Records predictions;

  void add(const std::string& task, const std::string& truth, const std::string& answer,
           const std::vector<std::string>& choices = {}) {
    const std::string id = std::to_string(references.size());
    references.push_back(make_record(task, truth, choices, id));
    predictions.push_back(make_record(task, answer, choices, id));
  }
};

MadeUp every_metric() {
  MadeUp made;
  const std::vector<std::string> entities{"疾病", "药物"};
  made.add("CMeEE-V2", "有：\n疾病实体：甲，乙\n药物实体：丙", "有：\n疾病实体：甲，丁\n药物实体：丙", entities);
  made.add("MedDG", "多喝水吧", "多喝茶");
  made.add("CMeEE-V2", "没有实体", "胡说", entities);
  made.add("KUAKE-QIC", "病情诊断", "病情诊断", {"病情诊断", "病因分析", "治疗方案"});
  made.add("KUAKE-QIC", "病因分析", "病情诊断", {"病情诊断", "病因分析", "治疗方案"});
  made.add("CMeEE-V2", "有：\n疾病实体：甲", "有：\n疾病实体：甲，甲", entities);
  made.add("CHIP-CTC", "体征(医生检测）", "体征(医生检测)");
  made.add("CHIP-CTC", "年龄", "性别");
  made.add("IMCS-V2-MRG", "引导\n主诉：甲乙\n诊断：乙", "引导\n主诉：甲丁");
  made.add("IMCS-V2-MRG", "引导\n主诉：甲", "引导\n主诉：甲");
  made.add("MedDG", "丙丁", "");
  made.add("KUAKE-QIC", "治疗方案", "治疗方案", {"病情诊断", "病因分析", "治疗方案"});
  made.add("选择", "甲", "乙", {"甲", "乙"});
  made.add("选择", "乙", "乙", {"甲", "乙"});
  return made;
}

std::vector<Scorer> every_scorer() {
  std::vector<Scorer> scorers;
  for (const char* name : {"moelora", "promptcblue", "paper"}) scorers.push_back(scorer_from_name(name));
  for (const Metric metric :
       {Metric::accuracy, Metric::choice_accuracy, Metric::macro_f1, Metric::exact_match, Metric::rouge_l}) {
    scorers.push_back({Scorer::Kind::by_task, std::string(metric_name(metric)), {}, metric});
  }
  return scorers;
}

// The samples of each task for which `keep(task, index)` holds, scored by eval::score.
void expect_scores_of_subsets(const MadeUp& made, const Scorer& scorer = {}) {
  const ScoredRun run = ScoredRun::from(made.references, made.predictions, scorer);
  const AnswerFormat format =
      scorer.kind == Scorer::Kind::promptcblue ? AnswerFormat::promptcblue : AnswerFormat::moelora;
  for (int leave_out = 0; leave_out < 3; ++leave_out) {
    MadeUp subset;
    std::vector<std::vector<std::int32_t>> kept(run.tasks().size());
    std::vector<std::int32_t> seen(run.tasks().size(), 0);
    for (std::size_t i = 0; i < made.references.size(); ++i) {
      std::size_t task = 0;
      while (run.tasks()[task].task != scored_name(made.references[i].task, format)) ++task;
      const std::int32_t index = seen[task]++;
      if (index % 3 == leave_out && run.tasks()[task].count() > 1) continue;
      kept[task].push_back(index);
      subset.references.push_back(made.references[i]);
      subset.predictions.push_back(made.predictions[i]);
    }
    const Scores expected = score(subset.references, subset.predictions, scorer);
    for (std::size_t task = 0; task < kept.size(); ++task) {
      if (kept[task].empty()) continue;
      EXPECT_NEAR(run.score(task, kept[task]), expected.find(run.tasks()[task].task)->score, 1e-12)
          << run.tasks()[task].task << " without " << leave_out << ", " << scorer.name;
    }
  }
}

void expect_scores_of_all(const MadeUp& made, const Scorer& scorer = {}) {
  const ScoredRun run = ScoredRun::from(made.references, made.predictions, scorer);
  const Scores expected = score(made.references, made.predictions, scorer);
  EXPECT_EQ(run.segmentation(), expected.segmentation);
  ASSERT_EQ(run.tasks().size(), expected.tasks.size());
  for (std::size_t task = 0; task < run.tasks().size(); ++task) {
    EXPECT_EQ(run.tasks()[task].task, expected.tasks[task].task);
    EXPECT_EQ(metric_name(run.tasks()[task].metric), expected.tasks[task].metric);
    EXPECT_EQ(run.tasks()[task].count(), expected.tasks[task].samples);
    EXPECT_NEAR(run.score(task), expected.tasks[task].score, 1e-12) << run.tasks()[task].task;
  }
  EXPECT_NEAR(run.average(), expected.average, 1e-12);
}

TEST(ScoredRun, AllSamplesHaveTheScorersScoreForEveryMetric) {
  const MadeUp made = every_metric();
  const ScoredRun run = ScoredRun::from(made.references, made.predictions);
  std::set<Metric> metrics;
  for (const TaskSamples& task : run.tasks()) metrics.insert(task.metric);
  EXPECT_EQ(metrics.size(), 5U);
  expect_scores_of_all(made);
}

TEST(ScoredRun, LeavingSamplesOutIsTheScoreOfTheOthers) { expect_scores_of_subsets(every_metric()); }

TEST(ScoredRun, EveryScorersScoresAreThoseOfItsSamples) {
  MadeUp made = every_metric();
  made.add("CMeIE", "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。",
           "具有病因关系的头尾实体对如下：头实体为甲，尾实体为丙。");
  made.add("KUAKE-IR", "相关", "", {"相关", "不相关"});
  made.add("KUAKE-IR", "不相关", "相关", {"相关", "不相关"});
  for (const Scorer& scorer : every_scorer()) {
    expect_scores_of_all(made, scorer);
    expect_scores_of_subsets(made, scorer);
  }
}

TEST(ScoredRun, RepeatedSamplesCountRepeatedly) {
  MadeUp made = every_metric();
  const ScoredRun once = ScoredRun::from(made.references, made.predictions);
  MadeUp repeated;
  std::vector<std::vector<std::int32_t>> drawn(once.tasks().size());
  for (std::size_t task = 0; task < once.tasks().size(); ++task) {
    std::int32_t index = 0;
    for (std::size_t i = 0; i < made.references.size(); ++i) {
      if (made.references[i].task != once.tasks()[task].task) continue;
      for (std::int32_t times = 0; times <= index; ++times) {
        drawn[task].push_back(index);
        repeated.add(made.references[i].task, made.references[i].target, made.predictions[i].target,
                     made.references[i].answer_choices);
      }
      ++index;
    }
  }
  const Scores expected = score(repeated.references, repeated.predictions);
  for (std::size_t task = 0; task < drawn.size(); ++task) {
    EXPECT_NEAR(once.score(task, drawn[task]), expected.tasks[task].score, 1e-12) << once.tasks()[task].task;
  }
}

TEST(ScoredRun, EqualsTheScorerOnRealRecordsOfEveryTask) {
  MOELORA_SKIP_WITHOUT_METRICS_FIXTURE();
  MadeUp real;
  real.references = data::read_records(testing::metrics_fixture() / "dev.json").records;
  real.predictions = data::read_records(testing::metrics_fixture() / "dev_predictions.json").records;
  EXPECT_EQ(ScoredRun::from(real.references, real.predictions).tasks().size(), 16U);
  for (const Scorer& scorer : every_scorer()) {
    expect_scores_of_all(real, scorer);
    expect_scores_of_subsets(real, scorer);
  }
}

TEST(ScoredRun, NoSamplesScoreZeroAndNoRecordsAreAnError) {
  const MadeUp made = every_metric();
  const ScoredRun run = ScoredRun::from(made.references, made.predictions);
  for (std::size_t task = 0; task < run.tasks().size(); ++task) EXPECT_EQ(run.score(task, {}), 0.0);
  EXPECT_THROW(ScoredRun::from({}, {}), Error);
}

// `right` of `count` answers are right; which ones, the seed says.
ScoredRun labels_right(std::int64_t right, std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  data::shuffle(order, data::SplitMix64(seed));
  Records truth;
  Records answers;
  for (std::int64_t i = 0; i < count; ++i) {
    truth.push_back(make_record("CHIP-CTC", "年龄", {}, std::to_string(i)));
    answers.push_back(truth.back());
    if (order[static_cast<std::size_t>(i)] >= right) answers.back().target = "性别";
  }
  return ScoredRun::from(truth, answers);
}

TEST(Bootstrap, IntervalOfAProportionIsTheBinomialOne) {
  const Bootstrap bootstrap({{{1}, {labels_right(280, 400, 1)}}}, {4000, 7, 0.95});
  const Interval interval = *bootstrap.average(0);
  EXPECT_NEAR(interval.value, 0.7, 1e-12);
  const double half = 1.96 * std::sqrt(0.7 * 0.3 / 400);
  EXPECT_NEAR(interval.low, 0.7 - half, 0.005);
  EXPECT_NEAR(interval.high, 0.7 + half, 0.005);
  EXPECT_NEAR(bootstrap.score(0, 0)->low, interval.low, 1e-12);
}

TEST(Bootstrap, DifferencesArePairedOverSamplesAndSeeds) {
  const std::vector<ScoredRun> runs{labels_right(200, 400, 1), labels_right(320, 400, 2)};
  const BootstrapRow row{{11, 12}, runs};
  const BootstrapRow turned{{12, 11}, {runs[1], runs[0]}};
  const BootstrapRow other_seeds{{21, 22}, runs};
  const Bootstrap bootstrap({row, turned, other_seeds});
  // The same runs in another order are the same row: no resample tells them apart.
  const Difference same = *bootstrap.average_difference(1, 0);
  EXPECT_EQ(same.interval.low, 0.0);
  EXPECT_EQ(same.interval.high, 0.0);
  EXPECT_EQ(same.share_not_above, 1.0);
  // The same runs under other seeds are drawn independently: 0.5 and 0.8 meet each other in 1 of 8 resamples.
  const Difference apart = *bootstrap.average_difference(2, 0);
  EXPECT_NEAR(apart.interval.value, 0.0, 1e-12);
  EXPECT_LT(apart.interval.low, -0.2);
  EXPECT_GT(apart.interval.high, 0.2);
  EXPECT_LT(bootstrap.average(0)->low, 0.52);
  EXPECT_GT(bootstrap.average(0)->high, 0.78);
}

TEST(Bootstrap, RowsAreComparedOnTheSeedsThatBothHave) {
  // Seed 12 is far from the baseline's others: against their mean, the row of one seed would seem to gain.
  const std::vector<ScoredRun> runs{labels_right(100, 400, 1), labels_right(320, 400, 2), labels_right(120, 400, 3)};
  const BootstrapRow baseline{{11, 12, 13}, runs};
  const Bootstrap bootstrap({baseline, {{12}, {runs[1]}}, {{13, 12}, {runs[2], runs[1]}}, {{99}, {runs[1]}}});
  for (const std::size_t row : {std::size_t{1}, std::size_t{2}}) {
    const Difference same = *bootstrap.average_difference(row, 0);
    EXPECT_EQ(same.interval.value, 0.0) << row;
    EXPECT_EQ(same.interval.low, 0.0) << row;
    EXPECT_EQ(same.interval.high, 0.0) << row;
    EXPECT_EQ(same.seeds, static_cast<std::int64_t>(row)) << row;
    EXPECT_EQ(bootstrap.average_difference(0, row)->interval.high, 0.0) << row;
    EXPECT_EQ(bootstrap.difference(row, 0, 0)->share_not_above, 1.0) << row;
  }
  EXPECT_EQ(bootstrap.average_difference(0, 0)->seeds, 3);
  // No seed in common: all runs of both.
  const Difference apart = *bootstrap.average_difference(3, 0);
  EXPECT_NEAR(apart.interval.value, 0.8 - (0.25 + 0.8 + 0.3) / 3, 1e-12);
  EXPECT_EQ(apart.seeds, 1);
}

TEST(Bootstrap, AClearGainIsNeverBelowZero) {
  const BootstrapRow weak{{1}, {labels_right(40, 200, 3)}};
  const BootstrapRow strong{{1}, {labels_right(120, 200, 3)}};
  const Difference gain = *Bootstrap({weak, strong}).difference(1, 0, 0);
  EXPECT_NEAR(gain.interval.value, 0.4, 1e-12);
  EXPECT_GT(gain.interval.low, 0.3);
  EXPECT_LT(gain.interval.high, 0.5);
  EXPECT_EQ(gain.share_not_above, 0.0);
}

TEST(Bootstrap, RepeatsForASeedAndTurnsWithAnother) {
  const std::vector<BootstrapRow> rows{{{1, 2}, {labels_right(70, 100, 1), labels_right(60, 100, 2)}}};
  const Interval first = *Bootstrap(rows).average(0);
  const Interval again = *Bootstrap(rows).average(0);
  const Interval other = *Bootstrap(rows, {1000, 99, 0.95}).average(0);
  EXPECT_EQ(first.low, again.low);
  EXPECT_EQ(first.high, again.high);
  EXPECT_EQ(first.value, other.value);
  EXPECT_TRUE(first.low != other.low || first.high != other.high);
}

TEST(Bootstrap, ARowWithoutRunsHasNoScore) {
  const Bootstrap bootstrap({{{}, {}}, {{1}, {labels_right(5, 10, 1)}}});
  EXPECT_FALSE(bootstrap.average(0).has_value());
  EXPECT_FALSE(bootstrap.score(0, 0).has_value());
  EXPECT_FALSE(bootstrap.average_difference(1, 0).has_value());
  EXPECT_TRUE(bootstrap.average(1).has_value());
  EXPECT_FALSE(Bootstrap(std::vector<BootstrapRow>(1)).average(0).has_value());
}

TEST(Bootstrap, RunsThatCannotBeComparedAreErrors) {
  const ScoredRun run = labels_right(5, 10, 1);
  EXPECT_THROW(Bootstrap({{{1}, {run}}, {{1}, {labels_right(5, 11, 1)}}}), Error);
  EXPECT_THROW(Bootstrap({{{1, 2}, {run}}}), Error);
  EXPECT_THROW(Bootstrap({{{1}, {run}}}, {0, 1, 0.95}), Error);
  EXPECT_THROW(Bootstrap({{{1}, {run}}}, {10, 1, 1.0}), Error);
}

}  // namespace
}  // namespace moelora::eval
