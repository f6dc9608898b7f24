#include "moelora/data/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

std::vector<Record> toy_records(const std::vector<std::pair<std::string, int>>& counts) {
  std::vector<Record> records;
  for (const auto& [task, count] : counts) {
    for (int i = 0; i < count; ++i) {
      Record record;
      record.task = task;
      record.input = task + std::to_string(i);
      record.target = "t";
      records.push_back(record);
    }
  }
  return records;
}

std::set<std::string> inputs_of(const std::vector<Record>& records) {
  std::set<std::string> inputs;
  for (const Record& record : records) {
    inputs.insert(record.input);
  }
  return inputs;
}

TEST(Parts, CoverTheFileOnceAndDoNotDependOnItsOrder) {
  std::vector<Record> records = toy_records({{"A", 500}, {"B", 300}});
  const auto first = select_part(records, 0, 2);
  const auto second = select_part(records, 1, 2);
  EXPECT_EQ(first.size() + second.size(), records.size());
  EXPECT_NEAR(static_cast<double>(first.size()), 400.0, 60.0);
  std::set<std::string> both = inputs_of(first);
  both.merge(inputs_of(second));
  EXPECT_EQ(both.size(), records.size());
  std::reverse(records.begin(), records.end());
  EXPECT_EQ(inputs_of(select_part(records, 0, 2)), inputs_of(first));
  EXPECT_EQ(select_part(records, 0, 1).size(), records.size());
  EXPECT_THROW(select_part(records, 2, 2), Error);
}

TEST(Tasks, AreTakenOrLeftOutByName) {
  const std::vector<Record> records = toy_records({{"A", 5}, {"B", 3}, {"C", 2}});
  EXPECT_EQ(select_tasks(records, {}, {}).size(), 10u);
  EXPECT_EQ(task_names_of(select_tasks(records, {"C", "A"}, {})), (std::vector<std::string>{"A", "C"}));
  EXPECT_EQ(inputs_of(select_tasks(records, {}, {"A", "C"})), (std::set<std::string>{"B0", "B1", "B2"}));
  EXPECT_THROW(select_tasks(records, {"A", "D"}, {}), Error);
  EXPECT_THROW(select_tasks(records, {}, {"D"}), Error);
  EXPECT_THROW(select_tasks(records, {"A"}, {"B"}), Error);
  EXPECT_THROW(select_tasks(records, {}, {"A", "B", "C"}), Error);
}

TEST(Few, AreTheSameInAnyOrderAndPartOfAnyMore) {
  std::vector<Record> records = toy_records({{"A", 60}});
  const auto few = select_few(records, 8);
  EXPECT_EQ(few.size(), 8u);
  EXPECT_NE(inputs_of(few), inputs_of(std::vector<Record>(records.begin(), records.begin() + 8)));
  const auto more = inputs_of(select_few(records, 16));
  for (const Record& record : few) {
    EXPECT_TRUE(more.contains(record.input)) << record.input;
  }
  EXPECT_TRUE(std::is_sorted(few.begin(), few.end(), [](const Record& a, const Record& b) {
    return std::stoi(a.input.substr(1)) < std::stoi(b.input.substr(1));  // the order of the file
  }));
  std::reverse(records.begin(), records.end());
  EXPECT_EQ(inputs_of(select_few(records, 8)), inputs_of(few));
  EXPECT_EQ(select_few(records, 100).size(), 60u);
  EXPECT_THROW(select_few(records, 0), Error);
}

TEST(Validation, TakesEachTasksShareAndAtLeastOne) {
  const std::vector<Record> records = toy_records({{"A", 600}, {"B", 390}, {"C", 9}, {"D", 1}});
  const Split split = carve_validation(records, 50, 7);
  EXPECT_EQ(split.validation.size(), 50u);
  EXPECT_EQ(split.train.size(), 950u);
  std::map<std::string, int> counts;
  for (const Record& record : split.validation) {
    ++counts[record.task];
  }
  EXPECT_NEAR(counts["A"], 30, 1);
  EXPECT_NEAR(counts["B"], 19, 1);
  EXPECT_EQ(counts["C"], 1);
  EXPECT_EQ(counts["D"], 0);
  std::set<std::string> both = inputs_of(split.train);
  both.merge(inputs_of(split.validation));
  EXPECT_EQ(both.size(), records.size());
}

TEST(Validation, IsTheSameForTheSameSeedWhateverTheOrder) {
  std::vector<Record> records = toy_records({{"A", 60}, {"B", 40}});
  const auto chosen = inputs_of(carve_validation(records, 10, 7).validation);
  EXPECT_NE(inputs_of(carve_validation(records, 10, 8).validation), chosen);
  std::reverse(records.begin(), records.end());
  EXPECT_EQ(inputs_of(carve_validation(records, 10, 7).validation), chosen);
}

/// The same inputs on both sides?
bool shares_questions(const Split& split) { return !shared_questions(split.train, split.validation).empty(); }

TEST(Validation, LeavesEveryTaskARecordToTrainOn) {
  std::vector<Record> records = toy_records({{"A", 300}, {"B", 250}});
  for (int i = 0; i < 50; ++i) {
    const auto rare = toy_records({{"rare-" + std::to_string(i), 1}});
    records.insert(records.end(), rare.begin(), rare.end());
  }
  for (const std::int64_t size : {1, 30, 100, 500, 599}) {
    for (const std::uint64_t seed : {1, 2, 3}) {
      const Split split = carve_validation(records, size, seed);
      EXPECT_EQ(task_names_of(split.train).size(), 52u) << size;
      EXPECT_EQ(static_cast<std::int64_t>(split.validation.size()), std::min<std::int64_t>(size, 548)) << size;
    }
  }
  EXPECT_TRUE(carve_validation(toy_records({{"A", 1}, {"B", 1}, {"C", 1}}), 2, 1).validation.empty());
}

TEST(Validation, NeverAsksWhatTrainingAsks) {
  std::vector<Record> records;
  for (int i = 0; i < 60; ++i) {
    for (int answer = 0; answer < 1 + i % 4; ++answer) {
      Record record;
      record.task = i % 3 == 0 ? "A" : "B";
      record.input = "question " + std::to_string(i);
      record.target = i % 2 == 0 ? "the same" : "answer " + std::to_string(answer);
      records.push_back(record);
    }
  }
  records.back().task = "C";  // the question of the one before, of another task
  records[1].history = {{"earlier", "round"}};
  for (const std::int64_t size : {1, 8, 40, 100}) {
    for (const std::uint64_t seed : {1, 2, 3}) {
      const Split split = carve_validation(records, size, seed);
      EXPECT_FALSE(shares_questions(split)) << size;
      EXPECT_EQ(split.train.size() + split.validation.size(), records.size());
      EXPECT_EQ(task_names_of(split.train).size(), 3u);
      EXPECT_NEAR(static_cast<double>(split.validation.size()), static_cast<double>(size), 8.0);
    }
  }
  const auto chosen = inputs_of(carve_validation(records, 20, 7).validation);
  std::reverse(records.begin(), records.end());
  EXPECT_EQ(inputs_of(carve_validation(records, 20, 7).validation), chosen);
}

TEST(Validation, HistoryIsPartOfAQuestion) {
  Record plain;
  plain.input = "x";
  Record later = plain;
  later.history = {{"a", "b"}};
  Record other = plain;
  other.history = {{"ab", ""}};
  EXPECT_EQ(shared_questions({plain, later}, {later, other, plain}), (std::vector<std::size_t>{0, 2}));
}

TEST(Validation, OfTheSampleDataIsWhatItWas) {
  ReadOptions options;
  options.deduplicate = true;
  options.need_target = true;
  const auto records =
      read_records(std::filesystem::path(MOELORA_SOURCE_DIR) / "examples" / "sample_data" / "train.json", options)
          .records;
  for (const auto& [size, seed, train, validation] : {std::tuple{120, 42, "819df25304e6518f", "3461874ba601b9d3"},
                                                      std::tuple{120, 1, "896b8688f4f28e1a", "8ffd08194181eb61"},
                                                      std::tuple{4, 42, "b9e4e7c6637398b2", "7cc5c0e69ad698d3"}}) {
    const Split split = carve_validation(records, size, static_cast<std::uint64_t>(seed));
    EXPECT_EQ(data_hash(split.train).substr(0, 16), train);
    EXPECT_EQ(data_hash(split.validation).substr(0, 16), validation);
  }
}

TEST(Validation, MayBeEmptyButNeverEverything) {
  const std::vector<Record> records = toy_records({{"A", 3}});
  EXPECT_EQ(carve_validation(records, 0, 1).train.size(), 3u);
  EXPECT_EQ(carve_validation(records, 2, 1).train.size(), 1u);
  EXPECT_THROW(carve_validation(records, 3, 1), Error);
  EXPECT_EQ(default_validation_size(1000), 50);
  EXPECT_EQ(default_validation_size(16038), 500);
}

}  // namespace
}  // namespace moelora::data
