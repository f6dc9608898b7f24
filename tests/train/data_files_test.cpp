#include "moelora/train/data_files.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "moelora/train/config.h"
#include "moelora/train/run_data.h"
#include "support/shared.h"

namespace moelora::train {
namespace {

using nlohmann::ordered_json;

std::string error_of(const std::string& json) {
  try {
    data_files_from_json(ordered_json::parse(json), "data.train");
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(DataFiles, AreAPathOrAList) {
  EXPECT_EQ(data_files_from_json("a.json", "data.train").path, "a.json");
  const auto list = ordered_json::parse(
      R"([{"file": "a.json", "weight": 2.0, "fields": "alpaca"}, {"file": "b.json", "weight": 1.0}])");
  const DataFiles files = data_files_from_json(list, "data.train");
  ASSERT_EQ(files.files.size(), 2u);
  EXPECT_EQ(files.files[0].weight, 2.0);
  EXPECT_EQ(files.files[0].fields->preset, "alpaca");
  EXPECT_FALSE(files.files[1].fields);
  EXPECT_EQ(to_json(files.path, files.files), list);
  EXPECT_EQ(data_files_from_json(ordered_json::parse(R"(["a", {"file": "b"}])"), "x").files.size(), 2u);
  EXPECT_EQ(data_files_from_json(ordered_json::parse(R"({"file": "b", "weight": 3})"), "x").files[0].weight, 3.0);
  EXPECT_TRUE(to_json("", {}).is_null());
  EXPECT_EQ(title_of(listed("a", {})), "a");
  EXPECT_EQ(title_of(listed("", files.files)), "a.json, b.json");
}

TEST(DataFiles, WhatIsWrongIsToldWithItsPlace) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"3", "data.train: expected a file's name or {\"file\""},
      {"[]", "data.train: expected one file or more"},
      {R"(["a", 5])", "data.train[1]: expected a file's name"},
      {R"([{"weight": 2}])", "data.train[0]: the name of the file is missing"},
      {R"([{"file": "a", "weight": 0}])", "data.train[0].weight: expected a number from 0.001 to 1000, found 0"},
      {R"([{"file": "a", "weigth": 2}])", "data.train[0].weigth: unknown key"},
      {R"([{"file": "a", "fields": "alpacca"}])", "did you mean \"alpaca\""},
      {R"([{"file": "a"}, {"file": "a", "weight": 2}])", "data.train[1]: a is listed twice"},
  };
  for (const auto& [json, part] : wrong) {
    EXPECT_NE(error_of(json).find(part), std::string::npos) << json << ": " << error_of(json);
  }
}

TEST(DataFiles, AConfigurationNamesThem) {
  const auto config_with = [](const std::string& data) {
    return TrainConfig::from_json(
        ordered_json::parse(R"({"mode": "adapter", "model": {"path": "m"}, "data": )" + data + "}"));
  };
  const auto problem = [&](const std::string& data) {
    try {
      config_with(data);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const TrainConfig config = config_with(
      R"({"train": [{"file": "a", "weight": 2.0}, {"file": "b", "weight": 1.0}], "validation": [{"file": "c", "weight": 1.0}],
          "fields": {"prompt": "{q}", "answer": "{a}", "task": {"file_name": true}}})");
  EXPECT_EQ(config.data.training().size(), 2u);
  EXPECT_EQ(config.data.validating().size(), 1u);
  const ordered_json json = config.to_json();
  EXPECT_EQ(TrainConfig::from_json(json).to_json(), json);
  EXPECT_EQ(json["data"]["fields"]["prompt"], "{q}");
  EXPECT_FALSE(config_with(R"({"train": "a"})").to_json()["data"].contains("fields"));
  EXPECT_NE(problem(R"({"train": 5})").find("data.train: expected a file's name"), std::string::npos);
  EXPECT_NE(problem(R"({})").find("data.train: the file of training records is missing"), std::string::npos);
  EXPECT_NE(problem(R"({"train": "a", "validation": [{"file": "b", "weight": 2}]})").find("data.validation: a weight"),
            std::string::npos);
  EXPECT_NE(problem(R"({"train": "a", "fields": "csv"})").find("data.fields: expected promptcblue, alpaca"),
            std::string::npos);
  EXPECT_NE(problem(R"({"train": "a", "fields": {"prompt": "{q}"}})").find("data.fields.answer: is missing"),
            std::string::npos);
}

class SeveralFiles : public ::testing::Test {
 protected:
  SeveralFiles() { log::set_level(log::Level::warning); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
    return (folder_.path() / name).string();
  }
  testing::TemporaryFolder folder_;
};

TEST_F(SeveralFiles, AreReadByTheirOwnFieldsWithTheirWeights) {
  const std::string blue = write("blue.json", R"({"input": "q", "target": "a", "task_dataset": "T"})");
  const std::string alpaca = write("sums.json",
                                   R"({"instruction": "1+1", "output": "2"}
{"instruction": "q", "output": "a", "task": "T"}
{"instruction": "2+2", "output": "4"})");
  DataSection section;
  section.validation_size = 0;
  section.train_files = {{blue, 1.0, std::nullopt}, {alpaca, 2.5, data::FieldMap::from_json("alpaca")}};
  const RunData run = read_run_data(section, 1);
  ASSERT_EQ(run.train.size(), 3u) << "the second file's second record is the first file's";
  EXPECT_EQ(run.train[0].weight, 1.0);
  EXPECT_EQ(run.train[1].weight, 2.5);
  EXPECT_EQ(run.train[1].task, "alpaca");
  EXPECT_EQ(data::record_name(run.train[2]), alpaca + " line 3");
  section.deduplicate = false;
  EXPECT_EQ(read_run_data(section, 1).train.size(), 4u);
  section.train_files[1].fields.reset();
  EXPECT_THROW(read_run_data(section, 1), Error);
}

TEST_F(SeveralFiles, AFilesNameMayBeItsTask) {
  const std::string one = write("Topic.jsonl", R"({"q": "x", "a": "y"})");
  const std::string two = write("Mood.jsonl", R"({"q": "x", "a": "y"})");
  DataSection section;
  section.validation_size = 0;
  section.fields = data::FieldMap::from_json(
      ordered_json::parse(R"({"prompt": "{q}", "answer": "{a}", "task": {"file_name": true}})"));
  section.train_files = {{one, 1.0, std::nullopt}, {two, 1.0, std::nullopt}};
  EXPECT_EQ(data::task_names_of(read_run_data(section, 1).train), (std::vector<std::string>{"Topic", "Mood"}));
}

TEST_F(SeveralFiles, TasksThatOnlySomeRecordsSayAreWarnedOf) {
  log::set_level(log::Level::info);
  ::testing::internal::CaptureStderr();
  data::ReadOptions options;
  options.fields = data::FieldMap::from_json("alpaca");
  read_and_report(std::vector<DataFile>{{write("a.json", R"({"instruction": "1", "output": "2", "task": "Sum"}
{"instruction": "2", "output": "3"})"),
                                         1.0, std::nullopt}},
                  options);
  const std::string text = ::testing::internal::GetCapturedStderr();
  EXPECT_NE(text.find("1 records say their task in the field \"task\", 1 do not"), std::string::npos) << text;
}

}  // namespace
}  // namespace moelora::train
