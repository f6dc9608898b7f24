#include "data/chat_example.h"

#include <gtest/gtest.h>

#include "data/fakes.h"
#include "moelora/io/error.h"

namespace moelora::data {
namespace {

/// "<question" … ">", with "[q|a]" for each earlier round; an answer ends in kEnd.
class ChatBytes : public fakes::ByteTokenizer {
 public:
  bool has_chat_template() const override { return true; }
  model::Prompt chat_prompt(const model::Conversation& conversation) const override {
    std::string text = conversation.system;
    for (const auto& [question, answer] : conversation.history) text += "[" + question + "|" + answer + "]";
    return {encode(text + "<" + conversation.question + ">"), 0};
  }
  model::TrainingPair chat_pair(const model::Conversation& conversation, std::string_view answer) const override {
    model::TrainingPair pair{chat_prompt(conversation).ids, 0};
    pair.label_begin = pair.length();
    for (const std::int64_t id : encode(answer)) pair.ids.push_back(id);
    pair.ids.push_back(fakes::kEnd);
    return pair;
  }
};

class ChatExample : public ::testing::Test {
 protected:
  std::string prompt() {
    const std::string text = tokenizer_.decode(encode_prompt(record_, tokenizer_, options_, &removed_).ids);
    const Example example = encode_pair(record_, 1, tokenizer_, options_);
    EXPECT_EQ(tokenizer_.decode({example.ids.begin(), example.ids.begin() + example.label_begin}), text)
        << "trained as it is asked";
    EXPECT_EQ(example.source_cut, removed_ > 0);
    return text;
  }
  ChatBytes tokenizer_;
  Record record_;
  EncodeOptions options_;
  std::int64_t removed_ = 0;
};

TEST_F(ChatExample, TheTemplateWritesTheWholeConversation) {
  record_.input = "how?";
  record_.target = "so";
  EXPECT_EQ(prompt(), "<how?>");
  record_.history = {{"a", "b"}};
  record_.system = "S:";
  options_.source_prefix = "P ";
  EXPECT_EQ(prompt(), "S:[P a|b]<how?>");
  const Example example = encode_pair(record_, 4, tokenizer_, options_);
  EXPECT_EQ(example.task, 4);
  EXPECT_EQ(example.label_count(), 3);
  EXPECT_EQ(example.ids.back(), fakes::kEnd);
}

TEST_F(ChatExample, WhatIsTooLongIsCutOutOfTheUsersText) {
  record_.input = "abcdefgh";
  record_.target = "x";
  options_.max_source_length = 6;  // four characters and the template's two
  options_.cut = Cut::tail;
  EXPECT_EQ(prompt(), "<abcd>");
  EXPECT_EQ(removed_, 4);
  options_.cut = Cut::head;
  EXPECT_EQ(prompt(), "<efgh>");
  options_.cut = Cut::middle;
  EXPECT_EQ(prompt(), "<abgh>");
  options_.source_prefix = "##";
  options_.cut = Cut::tail;
  EXPECT_EQ(prompt(), "<##ab>") << "the prefix is a part of what is cut";
  options_.cut = Cut::error;
  EXPECT_THROW(encode_prompt(record_, tokenizer_, options_), Error);
  options_.cut = Cut::tail;
  options_.max_source_length = 1;
  EXPECT_THROW(encode_prompt(record_, tokenizer_, options_), Error) << "the template alone is longer";
}

TEST_F(ChatExample, EarlierRoundsGoFirst) {
  record_.input = "now";
  record_.history = {{"1", "one"}, {"2", "two"}};
  options_.max_source_length = 13;
  EXPECT_EQ(prompt(), "[2|two]<now>");
  options_.max_source_length = 6;
  EXPECT_EQ(prompt(), "<now>");
  options_.max_source_length = 4;
  EXPECT_EQ(prompt(), "<no>");
}

TEST_F(ChatExample, AnAnswerThatIsTooLongKeepsItsEnd) {
  record_.input = "q";
  record_.target = "abcdef";
  options_.max_target_length = 3;
  const Example example = encode_pair(record_, 0, tokenizer_, options_);
  EXPECT_TRUE(example.target_cut);
  EXPECT_EQ(example.label_count(), 3);
  EXPECT_EQ(example.ids.back(), fakes::kEnd);
  EXPECT_EQ(tokenizer_.decode(example.ids), "<q>ab");
  options_.cut = Cut::error;
  EXPECT_THROW(encode_pair(record_, 0, tokenizer_, options_), Error);
}

}  // namespace
}  // namespace moelora::data
