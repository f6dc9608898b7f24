// Records of other fields than PromptCBLUE's, through read_records.
#include "data/record_fields.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/data/record.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

using nlohmann::ordered_json;

class MappedRecords : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text, const std::string& name = "records.json") const {
    std::ofstream(folder_.path() / name, std::ios::binary) << text;
    return folder_.path() / name;
  }
  static ReadOptions options(const std::string& fields, bool need_target = true) {
    ReadOptions read;
    read.need_target = need_target;
    read.fields = FieldMap::from_json(ordered_json::parse(fields), "fields");
    return read;
  }
  RecordFile read(const std::string& text, const std::string& fields) const {
    return read_records(write(text), options(fields));
  }
  /// The only problem, or the error, of a file of one record.
  std::string problem(const std::string& text, const std::string& fields, bool need_target = true) const {
    try {
      const RecordFile file = read_records(write(text), options(fields, need_target));
      return file.problems.empty() ? std::string() : file.problems.front();
    } catch (const Error& error) {
      return error.what();
    }
  }

  testing::TemporaryFolder folder_;
};

TEST_F(MappedRecords, AlpacaIsInstructionAndInputInTwoLines) {
  const RecordFile file = read(
      R"([{"instruction": "Sort.", "input": "b a", "output": "a b"},
          {"instruction": "Say hello.", "input": "", "output": "hello", "task": "Greeting", "choices": ["hello", "bye"]},
          {"instruction": "Say bye.", "output": "bye", "id": 7, "history": [["q", "a"]], "system": "Be kind."}])",
      R"("alpaca")");
  ASSERT_EQ(file.records.size(), 3u);
  EXPECT_EQ(file.records[0].input, "Sort.\nb a");
  EXPECT_EQ(file.records[0].target, "a b");
  EXPECT_EQ(file.records[0].task, "alpaca");
  EXPECT_EQ(file.records[1].input, "Say hello.");
  EXPECT_EQ(file.records[1].task, "Greeting");
  EXPECT_EQ(file.records[1].answer_choices, (std::vector<std::string>{"hello", "bye"}));
  EXPECT_EQ(file.records[2].input, "Say bye.");
  EXPECT_EQ(file.records[2].sample_id, "7");
  EXPECT_EQ(file.records[2].history.size(), 1u);
  EXPECT_EQ(file.records[2].system, "Be kind.");
  EXPECT_EQ(file.fallback_tasks, 2);
}

TEST_F(MappedRecords, FieldsOfOnesOwnMayBePathsAndNumbers) {
  const RecordFile file = read(
      R"({"q": {"text": "2 + 2?", "notes": ["x", "count"]}, "a.b": 4, "meta": {"kind": "Sum", "options": [3, 4]}, "n": null}
{"q": {"text": "right?", "notes": ["y", "z"]}, "a.b": true, "meta": {"kind": "Judge", "options": null}})",
      R"({"prompt": "{q.text} ({q.notes.1})\n{n?}", "answer": "{a.b}", "task": "meta.kind", "choices": "meta.options"})");
  EXPECT_EQ(file.problems, std::vector<std::string>{});
  ASSERT_EQ(file.records.size(), 2u);
  EXPECT_EQ(file.records[0].input, "2 + 2? (count)");
  EXPECT_EQ(file.records[0].target, "4");
  EXPECT_EQ(file.records[0].task, "Sum");
  EXPECT_EQ(file.records[0].answer_choices, (std::vector<std::string>{"3", "4"}));
  EXPECT_EQ(file.records[1].target, "true");
  EXPECT_TRUE(file.records[1].answer_choices.empty());
}

TEST_F(MappedRecords, TasksAreAFieldTheFilesNameOrAConstant) {
  const std::string text = R"({"q": "a", "a": "b", "t": "Field"})";
  const auto task_by = [&](const std::string& task) {
    const auto path = write(text, "AG-News.train.jsonl");
    return read_records(path, options(R"({"prompt": "{q}", "answer": "{a}", "task": )" + task + "}")).records[0].task;
  };
  EXPECT_EQ(task_by(R"("t")"), "Field");
  EXPECT_EQ(task_by(R"({"field": "t"})"), "Field");
  EXPECT_EQ(task_by(R"({"constant": "My task"})"), "My task");
  EXPECT_EQ(task_by(R"({"file_name": true})"), "AG-News.train");
  EXPECT_EQ(task_by(R"(["u", "t", {"constant": "x"}])"), "Field");
  EXPECT_EQ(task_by(R"(["u", {"constant": "x"}])"), "x");
}

TEST_F(MappedRecords, WhatStandsInForATaskIsNoneWhereNoneIsNeeded) {
  ReadOptions read = options(R"("alpaca")");
  read.need_task = false;
  const auto path = write(R"({"instruction": "a", "output": "b"})");
  EXPECT_EQ(read_records(path, read).records[0].task, "") << "--task, or the adapter's only one, names it";
  read.fields = FieldMap::from_json(ordered_json::parse(R"({"preset": "alpaca", "task": {"constant": "x"}})"));
  EXPECT_EQ(read_records(path, read).records[0].task, "x");
}

TEST_F(MappedRecords, ProblemsNameFilePlaceRecordAndWhatWasFound) {
  const std::string own = R"({"prompt": "{q}\n{c?}", "answer": "{a}", "task": "t"})";
  const std::string good = R"({"q": "x", "a": "y", "t": "T"})";
  const RecordFile file =
      read(good + "\n" + R"({"q": "x", "t": "T", "answer": 3})" + "\n" + R"({"q": ["x"], "a": "y", "t": "T"})" + "\n" +
               R"({"q": "", "a": "y", "t": "T"})" + "\n" + R"({"q": "x", "a": "", "t": "T"})" + "\n" +
               R"({"q": "x", "a": "y", "t": ""})" + "\n" + R"({"q": null, "a": "y", "t": "T"})" + "\n",
           own);
  EXPECT_EQ(file.records.size(), 1u);
  const std::vector<std::string> expected = {
      R"(records.json:2:1: the field "a" is missing; found "q", "t", "answer" (number))",
      R"(records.json:3:7: expected a string as "q", found array (record 3))",
      R"(records.json:4:7: the prompt is empty: "q", "c" are (record 4))",
      R"(records.json:5:17: "a" is empty (record 5))",
      R"(records.json:6:27: "t" is empty (record 6))",
      R"(records.json:7:1: the field "q" is missing; found "q" (null), "a", "t")",
  };
  ASSERT_EQ(file.problems.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NE(file.problems[i].find(expected[i]), std::string::npos) << file.problems[i];
  }
}

TEST_F(MappedRecords, PresetsTakeStringsAlone) {
  EXPECT_NE(problem(R"({"instruction": "a", "output": 5})", R"("alpaca")").find("as \"output\", found number"),
            std::string::npos);
  EXPECT_NE(problem(R"({"instruction": {"x": 1}, "output": "b"})", R"("alpaca")").find("found object"),
            std::string::npos);
  EXPECT_NE(problem(R"({"instruction": "a", "output": "b", "task": 3})", R"("alpaca")").find("found number"),
            std::string::npos);
}

// Two such numbers would become one task.
TEST_F(MappedRecords, ANumberOfMoreDigitsThanAreKeptIsAnError) {
  const char* fields = R"({"prompt": "{q}", "answer": "{a}", "task": "t"})";
  EXPECT_NE(problem(R"({"q": "x", "a": "y", "t": 12345678901234567890123})", fields).find("write it in quotes"),
            std::string::npos);
  EXPECT_EQ(problem(R"({"q": "x", "a": 0.25, "t": 18446744073709551615})", fields), "");
}

TEST_F(MappedRecords, FieldsThatDoNotFitAreAnErrorThatSuggestsTheMapping) {
  const std::string alpaca = problem(R"([{"instruction": "a", "input": "", "output": "b"}])", R"("promptcblue")");
  EXPECT_NE(alpaca.find("found \"instruction\", \"input\", \"output\""), std::string::npos) << alpaca;
  EXPECT_NE(alpaca.find("these are the fields of \"alpaca\""), std::string::npos) << alpaca;
  EXPECT_NE(alpaca.find("expected JSON with \"input\", \"target\" and \"task_dataset\""), std::string::npos) << alpaca;
  const std::string chat = problem(R"({"conversations": []})", R"("alpaca")");
  EXPECT_NE(chat.find("these are the fields of \"sharegpt\""), std::string::npos) << chat;
  EXPECT_NE(chat.find("expected JSON with \"instruction\" and \"output\""), std::string::npos) << chat;
}

TEST_F(MappedRecords, AlpacaIsNotReadAsOursByItsInputAlone) {
  ReadOptions read;
  read.need_task = false;
  const auto path = write(R"({"instruction": "Sort.", "input": "b a", "output": "a b"})");
  try {
    read_records(path, read);
    ADD_FAILURE() << "the instruction was dropped";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("these are the fields of \"alpaca\""), std::string::npos) << error.what();
  }
  EXPECT_EQ(
      read_records(write(R"({"instruction": "x", "input": "b a", "output": 1, "target": ""})"), read).records.size(),
      1u);
}

TEST_F(MappedRecords, AFieldThatTheMappingNamesAndNoRecordHasIsAnError) {
  const std::string text = R"({"q": "x", "a": "y", "t": "T"})";
  const std::string start = R"({"prompt": "{q}", "answer": "{a}", "task": "t", )";
  for (const char* key : {"choices", "history", "system", "id"}) {
    const std::string error = problem(text, start + '"' + key + R"(": "optoins"})");
    EXPECT_NE(error.find("no record has the field \"optoins\" that \"" + std::string(key) + "\""), std::string::npos)
        << error;
  }
  EXPECT_EQ(problem(R"({"instruction": "a", "output": "b"})", R"("alpaca")"), "") << "a preset's may be absent";
}

TEST_F(MappedRecords, AnOptionalFieldThatNoRecordHasIsToldOf) {
  const std::string records = R"({"context": "c", "q": "q", "a": "a", "topic": "x"})";
  const auto warnings = [&](const std::string& prompt, const std::string& task) {
    return read(records, R"({"prompt": ")" + prompt + R"(", "answer": "{a}", "task": )" + task + "}").warnings;
  };
  const std::string known = R"(["topic", {"file_name": true}])";
  EXPECT_EQ(warnings("{context?}{q}", known), std::vector<std::string>{});
  EXPECT_EQ(warnings("{contxt?}{q}", known),
            std::vector<std::string>{R"(no record has the field "contxt" that "prompt" of the fields names)"});
  EXPECT_EQ(warnings("{q}", R"(["topik", {"file_name": true}])"),
            std::vector<std::string>{R"(no record has the field "topik" that "task" of the fields names)"});
  EXPECT_EQ(warnings("{q}", R"(["topik", "topic"])"), std::vector<std::string>{}) << "one source is enough";
  EXPECT_EQ(read(R"({"instruction": "q", "output": "a"})", R"("alpaca")").warnings, std::vector<std::string>{})
      << "what a preset calls optional may be missing";
}

TEST_F(MappedRecords, MarksOfByteOrderAndUtf16AreRead) {
  const std::string text = R"({"instruction": "é 问", "output": "b"})";
  EXPECT_EQ(read("\xef\xbb\xbf" + text, R"("alpaca")").records.at(0).input, "é 问");
  std::string utf16 = "\xff\xfe";
  for (const char16_t c : std::u16string(u"{\"instruction\": \"é 问\", \"output\": \"b\"}")) {
    utf16 += static_cast<char>(c & 0xff);
    utf16 += static_cast<char>(c >> 8);
  }
  EXPECT_EQ(read(utf16, R"("alpaca")").records.at(0).input, "é 问");
  EXPECT_NE(problem("\xff\xfe\x41", R"("alpaca")").find("records.json"), std::string::npos);
  EXPECT_NE(problem("{\"instruction\": \"\xff\", \"output\": \"b\"}", R"("alpaca")").find("no UTF-8"),
            std::string::npos);
}

TEST_F(MappedRecords, PredictionsKeepTheirFieldsAndAreReadBack) {
  const auto path = write(
      "[{\"instruction\": \"a\",\n \"output\": \"b\", \"score\": 1.10, \"more\": {\"x\": [1,\n 2]}, \"prediction\": "
      "\"old\"}]");
  ReadOptions read = options(R"("alpaca")");
  read.keep_original = true;
  std::vector<Record> records = read_records(path, read).records;
  records[0].target = "new \"answer\"\n\xff";
  const auto written = folder_.path() / "predictions.json";
  write_predictions(written, records);
  EXPECT_EQ(io::read_text_file(written),
            "{\"instruction\": \"a\", \"output\": \"b\", \"score\": 1.10, \"more\": {\"x\": [1,  2]}, \"prediction\": "
            "\"new \\\"answer\\\"\\n\uFFFD\"}\n");
  read.fields = read.fields.for_predictions();
  const std::vector<Record> back = read_records(written, read).records;
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].target, "new \"answer\"\n\uFFFD");
  EXPECT_EQ(back[0].input, records[0].input);
  const std::string without = [&] {
    try {
      read_records(path, options(R"({"preset": "alpaca", "task": {"constant": "x"}})"));
      ReadOptions strict = options(R"("alpaca")");
      strict.fields = strict.fields.for_predictions();
      read_records(write(R"({"instruction": "a", "output": "b"})"), strict);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  }();
  EXPECT_NE(without.find("the field \"prediction\" is missing"), std::string::npos) << without;
}

TEST_F(MappedRecords, PromptcbluePredictionsAreWrittenAsEver) {
  ReadOptions read;
  read.keep_original = true;
  const auto records =
      read_records(write(R"({"input": "a", "target": "t", "task_dataset": "X", "extra": 1})"), read).records;
  const auto written = folder_.path() / "predictions.json";
  write_predictions(written, records);
  EXPECT_EQ(io::read_text_file(written), json_lines(records));
}

TEST_F(MappedRecords, SystemTextsAndWeightsAreWhatARecordIsToo) {
  Record record;
  record.input = "a";
  record.target = "b";
  const std::string plain = data_hash({record});
  record.weight = 2.0;
  const std::string weighted = data_hash({record});
  EXPECT_NE(weighted, plain);
  record.weight = 1.0;
  record.system = "s";
  EXPECT_NE(data_hash({record}), plain);
  EXPECT_EQ(to_json(record)["system"], "s");
}

TEST_F(MappedRecords, RealFilesAreReadWhole) {
  const std::filesystem::path path = testing::shared() / "data" / "english" / "train.json";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "the real records are not here: " << path;
  }
  const RecordFile file = read_records(path, options(R"("alpaca")"));
  EXPECT_EQ(file.records.size(), 7848u);
  EXPECT_TRUE(file.problems.empty());
  EXPECT_EQ(file.fallback_tasks, 0);
  EXPECT_EQ(task_names_of(file.records).size(), 10u);
  for (const Record& record : file.records) {
    ASSERT_FALSE(record.answer_choices.empty()) << record.line;
  }
}

}  // namespace
}  // namespace moelora::data
