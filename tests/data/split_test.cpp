#include "moelora/data/split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

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
