#include "moelora/train/run_data.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

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

}  // namespace
}  // namespace moelora::train
