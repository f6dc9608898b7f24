// Conversations in records, through read_records.
#include "data/messages.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/fakes.h"
#include "moelora/data/example.h"
#include "moelora/io/error.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

using nlohmann::ordered_json;
using Turns = std::vector<std::pair<std::string, std::string>>;

RecordFile read(const std::string& text, const std::string& fields, bool need_target) {
  testing::TemporaryFolder folder;
  const auto path = folder.path() / "chats.json";
  std::ofstream(path, std::ios::binary) << text;
  ReadOptions options;
  options.need_target = need_target;
  options.fields = FieldMap::from_json(ordered_json::parse(fields), "fields");
  return read_records(path, options);
}

std::string line_of(const Turns& turns) {
  ordered_json json;
  json["messages"] = ordered_json::array();
  for (const auto& [role, content] : turns) {
    json["messages"].push_back({{"role", role}, {"content", content}});
  }
  return json.dump();
}

Record record_of(const Turns& turns, bool need_target = true) {
  return read(line_of(turns), R"("messages")", need_target).records.at(0);
}

std::string problem_of(const std::string& text, const std::string& fields = R"("messages")", bool need_target = true) {
  try {
    read(text, fields, need_target);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

TEST(Messages, TheLastAnswerIsLearnedAndWhatCameBeforeIsHistory) {
  const Record one = record_of({{"user", "q"}, {"assistant", "a"}});
  EXPECT_EQ(one.input, "q");
  EXPECT_EQ(one.target, "a");
  EXPECT_TRUE(one.history.empty());
  EXPECT_EQ(one.task, "messages");
  const Record three = record_of({{"system", "s"},
                                  {"user", "q1"},
                                  {"assistant", "a1"},
                                  {"user", "q2"},
                                  {"assistant", "a2"},
                                  {"user", "q3"},
                                  {"assistant", "a3"}});
  EXPECT_EQ(three.system, "s");
  EXPECT_EQ(three.input, "q3");
  EXPECT_EQ(three.target, "a3");
  EXPECT_EQ(three.history, (Turns{{"q1", "a1"}, {"q2", "a2"}}));
}

TEST(Messages, AQuestionAtTheEndIsToBeAnswered) {
  const Record open = record_of({{"user", "q1"}, {"assistant", "a1"}, {"user", "q2"}}, false);
  EXPECT_EQ(open.input, "q2");
  EXPECT_EQ(open.target, "");
  EXPECT_EQ(open.history, (Turns{{"q1", "a1"}}));
  EXPECT_NE(problem_of(line_of({{"user", "q1"}, {"assistant", "a1"}, {"user", "q2"}}))
                .find("chats.json:1:13: expected an answer as the last message, found a turn of user (record 1)"),
            std::string::npos);
}

TEST(Messages, ShareGptHasItsOwnNames) {
  const RecordFile file = read(
      R"([{"id": "c1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
          {"id": "c2", "task": "Chat", "system": "s", "conversations": [{"from": "user", "value": "q"},
           {"from": "assistant", "value": "a"}]}])",
      R"("sharegpt")", true);
  ASSERT_EQ(file.records.size(), 2u);
  EXPECT_EQ(file.records[0].sample_id, "c1");
  EXPECT_EQ(file.records[0].input, "q");
  EXPECT_EQ(file.records[0].task, "sharegpt");
  EXPECT_EQ(file.records[1].system, "s");
  EXPECT_EQ(file.records[1].task, "Chat");
}

TEST(Messages, OthersNamesAreSaid) {
  const RecordFile file = read(R"({"turns": [{"who": "me", "says": "q"}, {"who": "it", "says": "a"}], "t": "T"})",
                               R"({"messages": {"list": "turns", "role": "who", "content": "says", "user": ["me"],
                                   "assistant": ["it"]}, "task": "t"})",
                               true);
  EXPECT_EQ(file.records.at(0).input, "q");
  EXPECT_EQ(file.records.at(0).target, "a");
}

TEST(Messages, WhatCanNotBeSaidSoIsAnErrorThatNamesIt) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {line_of({{"assistant", "a"}}), "message 1 of 1: expected a turn of user first, found \"assistant\""},
      {line_of({{"user", "q"}, {"user", "q"}, {"assistant", "a"}}),
       "message 2 of 3: expected a turn of assistant, as the one before is of the other side, found \"user\"; make one "
       "message of two turns in a row"},
      {line_of({{"user", "q"}, {"assistant", "a"}, {"assistant", "b"}}), "message 3 of 3: expected a turn of user"},
      {line_of({{"user", "q"}, {"system", "s"}, {"assistant", "a"}}),
       "message 2 of 3: a system text is understood as the first message alone"},
      {line_of({{"system", "s"}}), "expected a user's turn in \"messages\", found a system text alone"},
      {line_of({{"user", "q"}, {"tool", "t"}, {"assistant", "a"}}),
       "message 2 of 3: unknown role \"tool\"; expected user (asks), assistant (answers) or system"},
      {line_of({{"user", ""}, {"assistant", "a"}}), "message 1 of 2: it is empty (role \"user\")"},
      {line_of({}), "expected a list of messages as \"messages\", found an empty one"},
      {R"({"messages": "q"})", "expected a list of messages as \"messages\", found string"},
      {R"({"messages": [{"from": "human", "value": "q"}]})",
       "message 1 of 1: expected an object with the strings \"role\" and \"content\", found {\"from\":\"human\""},
      {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", "expected an object with the strings"},
      {R"({"messages": [3]})", "found 3"},
      {R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [1]}]})",
       "message 2 of 2: \"tool_calls\" is not supported"},
      {R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]})",
       "\"weight\" is not supported"},
      {R"({"tools": [{"name": "f"}], "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})",
       "\"tools\" are not supported"},
      {R"({"system": "t", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]})",
       "a second system text"},
  };
  for (const auto& [text, part] : wrong) {
    const std::string error = problem_of(text);
    EXPECT_NE(error.find(part), std::string::npos) << text << ": " << error;
  }
}

TEST(Messages, ASystemTextThatTheTokenizerHasNoFormForIsAnError) {
  Record record;
  record.input = "q";
  record.system = "Be kind.";
  record.sample_id = "c9";
  try {
    source_text(record, fakes::ByteTokenizer());
    ADD_FAILURE() << "a system text was dropped";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("record c9: it has a system text, \"Be kind.\""), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace moelora::data
