#include "moelora/train/run_data.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/data/split.h"
#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "support/shared.h"

namespace moelora::train {
namespace {

/// Forty records of the tasks A, B, C, D in turn.
struct RecordsFile {
  testing::TemporaryFolder folder;
  DataSection section;
  RecordsFile() {
    log::set_level(log::Level::warning);
    section.train = (folder.path() / "train.json").string();
    section.validation_size = 0;
    std::ofstream stream(section.train);
    for (int i = 0; i < 40; ++i) {
      data::Record record;
      record.input = "question " + std::to_string(i);
      record.target = "answer";
      record.task = std::string(1, static_cast<char>('A' + i % 4));
      stream << data::to_json(record).dump() << "\n";
    }
  }
  std::vector<std::string> tasks() const { return data::task_names_of(read_run_data(section, 1).train); }
};

TEST(RunData, HasTheTasksThatAreNamedOrNotLeftOut) {
  RecordsFile file;
  EXPECT_EQ(file.tasks().size(), 4u);
  file.section.tasks = {"B"};
  EXPECT_EQ(file.tasks(), std::vector<std::string>{"B"});
  EXPECT_EQ(read_run_data(file.section, 1).train.size(), 10u);
  file.section.tasks = {};
  file.section.without_tasks = {"B"};
  EXPECT_EQ(file.tasks(), (std::vector<std::string>{"A", "C", "D"}));
  file.section.without_tasks = {"E"};
  EXPECT_THROW(file.tasks(), Error);
}

TEST(RunData, FiltersAValidationFileTooAndOnlyTheTrainingRecordsByNumber) {
  RecordsFile file;
  file.section.validation = file.section.train;
  file.section.without_tasks = {"A", "D"};
  file.section.max_records = 6;
  const RunData data = read_run_data(file.section, 1);
  EXPECT_EQ(data.train.size(), 6u);
  EXPECT_EQ(data.validation.size(), 20u);
  EXPECT_EQ(data::task_names_of(data.validation), (std::vector<std::string>{"B", "C"}));
}

TEST(RunData, CarvesValidationOutOfTheFewThatAreTaken) {
  RecordsFile file;
  file.section.tasks = {"C"};
  file.section.max_records = 8;
  const RunData all = read_run_data(file.section, 1);
  file.section.validation_size = 3;
  const RunData data = read_run_data(file.section, 1);
  EXPECT_EQ(data.train.size(), 5u);
  EXPECT_EQ(data.validation.size(), 3u);
  for (const data::Record& record : data.validation) {
    EXPECT_TRUE(std::any_of(all.train.begin(), all.train.end(),
                            [&](const data::Record& one) { return one.input == record.input; }));
  }
}

/// What reading logs.
std::string log_of(const DataSection& section, RunData* data = nullptr) {
  log::set_level(log::Level::info);
  ::testing::internal::CaptureStderr();
  const RunData read = read_run_data(section, 1);
  log::set_level(log::Level::warning);
  if (data != nullptr) {
    *data = read;
  }
  return ::testing::internal::GetCapturedStderr();
}

void write_file(const std::string& path, const std::vector<std::array<std::string, 3>>& input_task_id) {
  std::ofstream stream(path);
  for (const auto& [input, task, id] : input_task_id) {
    data::Record record;
    record.input = input;
    record.target = "answer of " + id;
    record.task = task;
    record.sample_id = id;
    stream << data::to_json(record).dump() << "\n";
  }
}

TEST(RunData, ListsTheTasksWithTheirCounts) {
  RecordsFile file;
  file.section.validation_size = 8;
  const std::string text = log_of(file.section);
  EXPECT_NE(text.find("4 tasks:"), std::string::npos) << text;
  for (const char* task : {"A", "B", "C", "D"}) {
    EXPECT_NE(text.find(std::string("'") + task + "': 8 for training, 2 for validation"), std::string::npos) << text;
  }
  EXPECT_EQ(text.find("warning"), std::string::npos) << text;
}

TEST(RunData, WarnsOfTaskNamesThatDifferByBlanksOrCase) {
  RecordsFile file;
  write_file(file.section.train, {{"1", "MedDG", "a"},
                                  {"2", "MedDG ", "b"},
                                  {"3", "meddg", "c"},
                                  {"4", "MedDG", "d"},
                                  {"5", "CHIP-CDN", "e"},
                                  {"6", "ＣＨＩＰ＿CDN", "f"},
                                  {"7", "CMeIE", "g"}});
  const std::string text = log_of(file.section);
  EXPECT_NE(text.find("'MedDG' (2 records), 'MedDG ' (1 record), 'meddg' (1 record)"), std::string::npos) << text;
  EXPECT_NE(text.find("'CHIP-CDN' (1 record), 'ＣＨＩＰ＿CDN' (1 record)"), std::string::npos) << text;
  EXPECT_EQ(text.find("'CMeIE' ("), std::string::npos) << text;
}

TEST(RunData, WarnsOfAValidationFileThatAsksWhatTrainingAsks) {
  RecordsFile file;
  file.section.validation = (file.folder.path() / "validation.json").string();
  write_file(file.section.validation, {{"question 3", "D", "leak-1"},
                                       {"new", "A", "fine"},
                                       {"question 7", "D", "leak-2"},
                                       {"also new", "A", "fine too"}});
  const std::string text = log_of(file.section);
  EXPECT_NE(text.find("validation.json: 2 of 4 records ask what a training record asks too"), std::string::npos)
      << text;
  EXPECT_NE(text.find("leak-1 (line 1), leak-2 (line 3)"), std::string::npos) << text;
  EXPECT_EQ(text.find("fine"), std::string::npos) << text;
}

TEST(RunData, WarnsOfAValidationPartTooSmallToTellAnything) {
  RecordsFile file;
  file.section.validation_size = 1;
  EXPECT_NE(log_of(file.section).find("the validation part has a single record"), std::string::npos);
  file.section.validation_size = 4;
  EXPECT_NE(log_of(file.section).find("no more than one record of each task"), std::string::npos);
  file.section.validation_size = 5;
  EXPECT_EQ(log_of(file.section).find("the validation part has"), std::string::npos);
  file.section.validation_size = 0;
  EXPECT_EQ(log_of(file.section).find("the validation part has"), std::string::npos);
}

TEST(RunData, KeepsAQuestionsAnswersTogetherAlsoWithDuplicates) {
  RecordsFile file;
  std::vector<std::array<std::string, 3>> records;
  for (int i = 0; i < 60; ++i) {
    records.push_back({"question " + std::to_string(i / 3), "A", std::to_string(i)});
  }
  write_file(file.section.train, records);
  file.section.deduplicate = false;
  file.section.validation_size = 10;
  RunData data;
  const std::string text = log_of(file.section, &data);
  EXPECT_TRUE(data::shared_questions(data.train, data.validation).empty());
  EXPECT_EQ(data.validation.size(), 9u);
  EXPECT_NE(text.find("has 9 records where 10 were asked for"), std::string::npos) << text;
}

}  // namespace
}  // namespace moelora::train
