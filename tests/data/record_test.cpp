#include "moelora/data/record.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

std::filesystem::path write_records(const testing::TemporaryFolder& folder, const std::string& text) {
  const std::filesystem::path path = folder.path() / "records.json";
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

std::string error_of_reading(const std::filesystem::path& path, const ReadOptions& options = {}) {
  try {
    read_records(path, options);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Records, ReadJsonLinesWithEveryField) {
  testing::TemporaryFolder folder;
  const auto path = write_records(
      folder,
      "\xef\xbb\xbf{\"input\": \"问\\n答：\", \"target\": \"是\", \"answer_choices\": [\"是\", \"否\"], \"task_type\": "
      "\"cls\", \"task_dataset\": \"CHIP-STS\", \"sample_id\": \"a1\", \"extra\": {}}\r\n\n"
      "{\"input\": \"b\", \"target\": \"\", \"answer_choices\": null, \"task_dataset\": \"MedDG\", \"sample_id\": "
      "7}\n");
  const RecordFile file = read_records(path);
  ASSERT_EQ(file.records.size(), 2u);
  EXPECT_EQ(file.problems, std::vector<std::string>{});
  EXPECT_EQ(file.records[0].input, "问\n答：");
  EXPECT_EQ(file.records[0].answer_choices, (std::vector<std::string>{"是", "否"}));
  EXPECT_EQ(file.records[0].task_type, "cls");
  EXPECT_EQ(file.records[1].sample_id, "7");
  EXPECT_EQ(file.records[1].line, 3);
  EXPECT_EQ(task_names_of(file.records), (std::vector<std::string>{"CHIP-STS", "MedDG"}));
  EXPECT_EQ(to_json(file.records[0])["answer_choices"].size(), 2u);
  EXPECT_TRUE(to_json(file.records[1])["answer_choices"].is_null());
}

TEST(Records, ReadAnArrayLikeTheSameLines) {
  testing::TemporaryFolder folder;
  const std::string one = R"({"input": "a, ]}\" \\", "target": "t", "task_dataset": "X", "answer_choices": ["p"]})";
  const std::string two = R"({"input": "b", "target": "u", "task_dataset": "Y"})";
  const RecordFile lines = read_records(write_records(folder, one + "\n" + two + "\n"));
  const RecordFile array = read_records(write_records(folder, "\n [" + one + " ,\n" + two + "\n]\n"));
  ASSERT_EQ(array.records.size(), 2u);
  EXPECT_EQ(array.records[0].input, "a, ]}\" \\");
  EXPECT_EQ(array.records[1].line, 3);
  EXPECT_EQ(array.records[1].number, 2);
  EXPECT_EQ(data_hash(array.records), data_hash(lines.records));
}

TEST(Records, ABadLineIsNamedCountedAndLeftOut) {
  testing::TemporaryFolder folder;
  const auto path =
      write_records(folder,
                    "{\"input\": \"a\", \"target\": \"t\", \"task_dataset\": \"X\"}\n"
                    "{\"input\": \"b\", \"target\": \n"
                    "[1]\n"
                    "{\"target\": \"t\", \"task_dataset\": \"X\"}\n"
                    "{\"input\": \"\", \"target\": \"t\", \"task_dataset\": \"X\"}\n"
                    "{\"input\": \"c\", \"target\": \"\", \"task_dataset\": \"X\"}\n"
                    "{\"input\": \"\xff\", \"target\": \"t\", \"task_dataset\": \"X\"}\n"
                    "{\"input\": \"d\", \"target\": \"t\", \"task_dataset\": \"X\", \"answer_choices\": 3}\n"
                    "{\"input\": \"e\", \"target\": 5, \"task_dataset\": \"X\"}\n");
  ReadOptions options;
  options.need_target = true;
  const RecordFile file = read_records(path, options);
  EXPECT_EQ(file.records.size(), 1u);
  ASSERT_EQ(file.problems.size(), 8u);
  const std::vector<std::string> expected = {
      ":2:25: broken JSON: expected a value, found the end of the record (record 2)",
      ":3:2: expected an object, found number (record 3)",
      ":4:1: the field \"input\" is missing; found \"target\", \"task_dataset\" (record 4)",
      ":5:11: \"input\" is empty (record 5)",
      ":6:26: \"target\" is empty (record 6)",
      ":7:12: broken JSON: found the byte 0xFF, which is no UTF-8",
      ":8:70: expected a list of strings or null as \"answer_choices\", found number (record 8)",
      ":9:26: expected a string as \"target\", found number (record 9)",
  };
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NE(file.problems[i].find("records.json" + expected[i]), std::string::npos) << file.problems[i];
  }
}

TEST(Records, AllThatIsWrongWithARecordIsToldAtOnce) {
  testing::TemporaryFolder folder;
  const auto path = write_records(
      folder, "{\"instruction\": \"问\", \"output\": [1], \"sample_id\": 7, \"answer_choices\": \"no\"}\n");
  ReadOptions options;
  options.need_target = true;
  const std::string error = error_of_reading(path, options);
  EXPECT_NE(
      error.find("records.json:1:1: the fields \"input\", \"target\" and \"task_dataset\" are missing; found "
                 "\"instruction\", \"output\" (array), \"sample_id\" (number), \"answer_choices\"; expected a list "
                 "of strings or null as \"answer_choices\", found string (sample_id 7)"),
      std::string::npos)
      << error;
}

TEST(Records, NeedNoTaskWhereItIsKnownOtherwise) {
  testing::TemporaryFolder folder;
  const auto path = write_records(folder, "{\"input\": \"a\"}\n{\"input\": \"b\", \"task_dataset\": \"X\"}\n");
  EXPECT_EQ(read_records(path).records.size(), 1u);
  ReadOptions options;
  options.need_task = false;
  const RecordFile file = read_records(path, options);
  ASSERT_EQ(file.records.size(), 2u);
  EXPECT_FALSE(to_json(file.records[0]).contains("task_dataset"));
  EXPECT_EQ(to_json(file.records[1])["task_dataset"], "X");
}

TEST(Records, DuplicatesAreLeftOutByInputTargetAndTask) {
  testing::TemporaryFolder folder;
  const auto path =
      write_records(folder,
                    "{\"input\": \"a\", \"target\": \"t\", \"task_dataset\": \"X\", \"sample_id\": \"1\"}\n"
                    "{\"input\": \"a\", \"target\": \"t\", \"task_dataset\": \"X\", \"sample_id\": \"2\"}\n"
                    "{\"input\": \"a\", \"target\": \"t\", \"task_dataset\": \"Y\"}\n"
                    "{\"input\": \"at\", \"target\": \"\", \"task_dataset\": \"X\"}\n");
  ReadOptions options;
  options.deduplicate = true;
  const RecordFile file = read_records(path, options);
  EXPECT_EQ(file.records.size(), 3u);
  EXPECT_EQ(file.duplicates, 1);
  EXPECT_EQ(read_records(path).records.size(), 4u);
}

TEST(Records, UnusableFilesAreErrors) {
  testing::TemporaryFolder folder;
  EXPECT_NE(error_of_reading(folder.path() / "absent.json").find("absent.json"), std::string::npos);
  EXPECT_NE(error_of_reading(folder.path()).find("cannot read"), std::string::npos);
  EXPECT_NE(error_of_reading(write_records(folder, "")).find("empty"), std::string::npos);
  EXPECT_NE(error_of_reading(write_records(folder, "[]")).find("not a single good record"), std::string::npos);
  const std::string good = R"({"input": "a", "target": "t", "task_dataset": "X"})";
  EXPECT_NE(error_of_reading(write_records(folder, "[" + good + ", " + good)).find("cut off"), std::string::npos);
  std::string bad = good + "\n";
  for (int i = 0; i < 5; ++i) {
    bad += "no json\n";
  }
  ReadOptions options;
  options.max_problems = 4;
  EXPECT_NE(error_of_reading(write_records(folder, bad), options).find("more than 4 bad records"), std::string::npos);
  options.max_problems = 5;
  EXPECT_EQ(error_of_reading(write_records(folder, bad), options), "");
}

TEST(Records, ValuesNestedWithoutEndAreAProblemNotACrash) {
  testing::TemporaryFolder folder;
  const std::string good = R"({"input": "a", "target": "t", "task_dataset": "X"})";
  for (const char* key : {"history", "answer_choices", "sample_id", "extra"}) {
    const std::string deep = R"({"input": "a", "target": "t", "task_dataset": "X", ")" + std::string(key) +
                             "\": " + std::string(200000, '[') + std::string(200000, ']') + "}";
    const RecordFile file = read_records(write_records(folder, good + "\n" + deep + "\n"));
    EXPECT_EQ(file.records.size(), 1u) << key;
    ASSERT_EQ(file.problems.size(), 1u) << key;
    EXPECT_NE(file.problems[0].find("nest deeper than 200"), std::string::npos) << file.problems[0];
  }
}

TEST(Records, RealFilesAreReadWhole) {
  const std::filesystem::path path = testing::shared() / "data" / "promptcblue" / "train.json";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "the real records are not here: " << path;
  }
  const RecordFile file = read_records(path);
  EXPECT_EQ(file.records.size(), 16038u);
  EXPECT_TRUE(file.problems.empty());
  EXPECT_EQ(task_names_of(file.records).size(), 12u);
}

TEST(Records, AreWrittenAsTheLinesThatAreReadAgain) {
  testing::TemporaryFolder folder;
  Record record;
  record.input = "问";
  record.target = "答";
  record.task = "QIC";
  record.sample_id = "1";
  const auto path = folder.path() / "records.json";
  moelora::data::write_records(path, {record, record});
  const RecordFile file = read_records(path);
  ASSERT_EQ(file.records.size(), 2u);
  EXPECT_EQ(json_lines(file.records), io::read_text_file(path));
  record.target = "\xff";  // an answer that was cut inside a character
  moelora::data::write_records(path, {record});
  EXPECT_EQ(read_records(path).records.front().target, "\uFFFD");
}

}  // namespace
}  // namespace moelora::data
