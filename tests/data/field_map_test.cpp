#include "moelora/data/field_map.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

using nlohmann::ordered_json;

FieldMap map_of(const std::string& json) { return FieldMap::from_json(ordered_json::parse(json), "data.fields"); }

std::string error_of(const std::string& json) {
  try {
    map_of(json);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(FieldMap, IsPromptcblueUnlessSaid) {
  const FieldMap map;
  EXPECT_TRUE(map.is_default());
  EXPECT_EQ(map, map_of(R"("promptcblue")"));
  EXPECT_EQ(map.needed(), R"("input", "target" and "task_dataset")");
  EXPECT_EQ(map.to_json(), "promptcblue");
  EXPECT_TRUE(map_of(R"({"preset": "promptcblue"})").is_default());
}

TEST(FieldMap, PresetsSayWhatAnObjectDoesNot) {
  const FieldMap map = map_of(R"({"preset": "alpaca", "task": {"constant": "News"}, "choices": "labels"})");
  EXPECT_FALSE(map.is_default());
  EXPECT_EQ(map.prompt.text(), "{instruction}\n{input?}");
  EXPECT_EQ(map.answer.text(), "{output}");
  ASSERT_EQ(map.task.size(), 1u);
  EXPECT_EQ(map.task[0].kind, TaskSource::Kind::constant);
  EXPECT_EQ(map.task[0].text, "News");
  EXPECT_EQ(map.choices, "labels");
  EXPECT_TRUE(map.is_own("choices"));
  EXPECT_FALSE(map.is_own("prompt"));
  EXPECT_EQ(map.needed(), R"("instruction" and "output")");
  for (const std::string& preset : field_presets()) {
    EXPECT_EQ(map_of(ordered_json(preset).dump()).to_json(), preset);
  }
}

TEST(FieldMap, ComesBackFromItsJson) {
  for (const char* json :
       {R"({"prompt":"{a}\n{b?}","answer":"{c}","task":["t",{"file_name":true},{"constant":"x"}],"id":"i"})",
        R"({"messages":{"list":"turns","role":"who","content":"says","user":["me"],"assistant":["it"]},"task":"t"})",
        R"({"preset":"sharegpt","task":{"file_name":true}})"}) {
    const FieldMap map = map_of(json);
    EXPECT_EQ(map.to_json().dump(), json);
    EXPECT_EQ(FieldMap::from_json(map.to_json()), map);
  }
}

TEST(FieldMap, EveryProblemIsToldAtOnce) {
  const std::string error = error_of(R"({"prompt": "no field", "answer": "{c", "tusk": "t", "choices": 3, "id": ""})");
  for (const char* part :
       {"data.fields.prompt: expected a template with a field in it", "data.fields.answer: expected '}'",
        "data.fields.tusk: unknown key", "did you mean \"task\"", "data.fields.choices: expected a string, found 3",
        "data.fields.id: expected a field's name, found an empty text", "data.fields.task: is missing"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
  }
}

TEST(FieldMap, WhatCanNotBeMeantIsAnError) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {R"("alpacca")", "did you mean \"alpaca\""},
      {R"(3)", "expected promptcblue, alpaca, sharegpt, messages or an object such as"},
      {R"([])", "found []"},
      {R"({})", "prompt: is missing"},
      {R"({"prompt": "{a}", "task": "t"})", "answer: is missing"},
      {R"({"prompt": "{a}", "answer": "{b}"})", "task: is missing"},
      {R"({"preset": "csv"})", "preset: expected one of promptcblue, alpaca, sharegpt, messages, found \"csv\""},
      {R"({"preset": "messages", "prompt": "{a}"})", "prompt: the preset takes it from the messages"},
      {R"({"messages": "m", "answer": "{a}", "task": "t"})", "answer: the messages say it already"},
      {R"({"messages": {"role": "r"}, "task": "t"})", "messages.list: the name of the field"},
      {R"({"preset": "alpaca", "task": {"constant": ""}})", "task: expected a field's name"},
      {R"({"preset": "alpaca", "task": {"file_name": false}})", "task: expected a field's name"},
      {R"({"preset": "alpaca", "task": []})", "task: expected one source or more"},
      {R"({"preset": "alpaca", "choices": "{options}"})", "choices: expected a field's name without braces"},
  };
  for (const auto& [json, part] : wrong) {
    const std::string error = error_of(json);
    EXPECT_NE(error.find(part), std::string::npos) << json << ": " << error;
  }
}

TEST(FieldMap, IsReadFromANameJsonAFileOrAConfiguration) {
  testing::TemporaryFolder folder;
  const auto write = [&](const char* name, const char* text) {
    std::ofstream(folder.path() / name) << text;
    return (folder.path() / name).string();
  };
  EXPECT_EQ(FieldMap::from_text("alpaca").preset, "alpaca");
  EXPECT_EQ(FieldMap::from_text(R"( {"preset": "alpaca", "task": "t"})").task[0].text, "t");
  EXPECT_EQ(FieldMap::from_text(write("fields.json", "// a comment\n{\"preset\": \"messages\", \"task\": \"u\"}"))
                .task[0]
                .text,
            "u");
  EXPECT_EQ(FieldMap::from_text(write("run.json", R"({"data": {"train": "a", "fields": "sharegpt"}})")).preset,
            "sharegpt");
  EXPECT_TRUE(FieldMap::from_text(write("old.json", R"({"data": {"train": "a"}})")).is_default());
  EXPECT_THROW(FieldMap::from_text("absent.json"), Error);
  EXPECT_THROW(FieldMap::from_text("{\"preset\""), Error);
}

TEST(FieldMap, PredictionsHaveTheirAnswersInAFieldOfTheirOwn) {
  EXPECT_EQ(map_of(R"("alpaca")").for_predictions().prediction, kPredictionField);
  EXPECT_EQ(FieldMap().for_predictions().prediction, "");
  const FieldMap by_file = map_of(R"({"preset": "alpaca", "task": ["kind", {"file_name": true}]})");
  EXPECT_EQ(by_file.fallback_task("data/Sums.jsonl"), "Sums");
  EXPECT_EQ(by_file.for_predictions().fallback_task("out/predictions.json"), "");
  EXPECT_EQ(map_of(R"("alpaca")").fallback_task("data/Sums.jsonl"), "alpaca");
  EXPECT_EQ(FieldMap().fallback_task("data/Sums.jsonl"), "");
}

TEST(FieldMap, SuggestsWhatWouldReadARecord) {
  const FieldMap given;
  const auto suggested = [&](const std::vector<std::string>& keys) { return suggested_fields(keys, given); };
  EXPECT_NE(suggested({"instruction", "input", "output"}).find("\"alpaca\""), std::string::npos);
  EXPECT_NE(suggested({"id", "conversations"}).find("\"sharegpt\""), std::string::npos);
  EXPECT_NE(suggested({"messages"}).find("\"messages\""), std::string::npos);
  EXPECT_NE(suggested({"question", "label", "category"})
                .find(R"({"prompt": "{question}", "answer": "{label}", "task": "category"})"),
            std::string::npos);
  EXPECT_NE(suggested({"a"}).find("data.fields (or --fields) says"), std::string::npos);
  EXPECT_EQ(suggested({"input", "target", "task_dataset"}), "");
  EXPECT_EQ(suggested({"target", "question", "label"}), "") << "a record of ours that is not whole";
}

}  // namespace
}  // namespace moelora::data
