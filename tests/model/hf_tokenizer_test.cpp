#include "moelora/model/hf_tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Folders with a tokenizer and what Hugging Face makes of texts with it: ours, and more where there are more.
std::vector<fs::path> recorded_folders() {
  std::vector<fs::path> folders;
  for (const fs::path& root : {testing::fixtures(), testing::shared() / "fixtures"}) {
    if (!fs::is_directory(root)) continue;
    for (const auto& entry : fs::directory_iterator(root)) {
      if (fs::exists(entry.path() / "tokenizer_golden.json")) folders.push_back(entry.path());
    }
  }
  return folders;
}

/// A recorded tokenizer, changed by the test.
class HfTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("moelora_hf_tokenizer_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    const Json base = io::read_json_file(testing::fixtures() / "byte_fallback" / "tokenizer.json");
    json_ = base;
    config_ = {{"eos_token", "</s>"}, {"bos_token", "<s>"}};
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write() {
    io::write_json_file(folder_ / "tokenizer.json", json_);
    io::write_json_file(folder_ / "tokenizer_config.json", config_);
  }
  HfTokenizer load(const Json& settings = Json::object()) {
    write();
    return HfTokenizer(folder_, settings);
  }
  std::string error(const Json& settings = Json::object()) {
    try {
      load(settings);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  fs::path folder_;
  Json json_, config_;
};

TEST(HfTokenizer, GivesTheRecordedIdsTextsAndPrompts) {
  const std::vector<fs::path> folders = recorded_folders();
  ASSERT_FALSE(folders.empty());
  for (const fs::path& folder : folders) {
    SCOPED_TRACE(folder.string());
    const HfTokenizer tokenizer(folder);
    const Json golden = io::read_json_file(folder / "tokenizer_golden.json");
    EXPECT_EQ(tokenizer.vocab_size(), golden["len_tokenizer"].get<std::int64_t>());
    EXPECT_EQ(tokenizer.eos_id(), golden["eos_token_id"].get<std::int64_t>());
    ASSERT_FALSE(golden["pairs"].empty());
    for (const Json& pair : golden["pairs"]) {
      const auto ids = pair["ids"].get<TokenIds>();
      EXPECT_EQ(tokenizer.encode(pair["text"].get<std::string>()), ids) << pair["text"];
      EXPECT_EQ(tokenizer.build_prompt(ids).ids, pair["ids_special"].get<TokenIds>()) << pair["text"];
      EXPECT_EQ(tokenizer.decode_all(ids), pair["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer.decode(ids), pair["decoded_skip_special"].get<std::string>());
    }
    for (const Json& chat : golden["chats"]) {
      std::vector<ChatMessage> messages;
      for (const Json& message : chat["messages"]) messages.push_back({message["role"], message["content"]});
      std::string text;
      EXPECT_EQ(tokenizer.chat_ids(messages, true, &text), chat["ids"].get<TokenIds>());
      EXPECT_EQ(text, chat["text"].get<std::string>());
    }
  }
}

/// shared/bases/NAME-golden, and the base it was recorded from: $MOELORA_NAME_DIR, else build/pretrained/NAME.
std::vector<std::pair<fs::path, fs::path>> real_bases() {
  std::vector<std::pair<fs::path, fs::path>> found;
  const fs::path root = testing::shared() / "bases";
  if (!fs::is_directory(root)) return found;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string folder = entry.path().filename().string(), end = "-golden";
    if (!folder.ends_with(end)) continue;
    const std::string name = folder.substr(0, folder.size() - end.size());
    std::string variable = "MOELORA_" + name + "_DIR";
    std::transform(variable.begin(), variable.end(), variable.begin(), [](unsigned char c) { return std::toupper(c); });
    const char* set = std::getenv(variable.c_str());
    const fs::path base = set != nullptr ? fs::path(set) : fs::path(MOELORA_SOURCE_DIR) / "build" / "pretrained" / name;
    if (fs::exists(base / "tokenizer.json")) found.emplace_back(base, entry.path() / "golden.json");
  }
  return found;
}

TEST(HfTokenizer, GivesTheRecordedIdsOfRealBases) {
  const auto bases = real_bases();
  if (bases.empty()) {
    GTEST_SKIP() << "no base that goldens below " << testing::shared() / "bases"
                 << " were recorded from";
  }
  for (const auto& [folder, golden_file] : bases) {
    SCOPED_TRACE(folder.string());
    const HfTokenizer tokenizer(folder);
    const Json golden = io::read_json_file(golden_file);
    ASSERT_FALSE(golden["tokenizer"].empty());
    for (const char* cases : {"tokenizer", "prompts"}) {
      for (const Json& one : golden[cases]) {
        EXPECT_EQ(tokenizer.encode(one["text"].get<std::string>()), one["ids"].get<TokenIds>()) << one["text"];
      }
    }
    ASSERT_FALSE(golden["chat_template"].empty());
    for (const Json& chat : golden["chat_template"]) {
      std::vector<ChatMessage> messages;
      for (const Json& message : chat["messages"]) messages.push_back({message["role"], message["content"]});
      std::string text;
      EXPECT_EQ(tokenizer.chat_ids(messages, chat["add_generation_prompt"], &text), chat["ids"].get<TokenIds>());
      EXPECT_EQ(text, chat["text"].get<std::string>());
    }
  }
}

TEST(HfTokenizer, LabelsAreTheAnswerAndTheTokenThatEndsIt) {
  for (const fs::path& folder : recorded_folders()) {
    SCOPED_TRACE(folder.string());
    const HfTokenizer tokenizer(folder);
    const Conversation conversation{"", {{"first", "one"}}, "second"};
    const TokenIds prompt = tokenizer.chat_prompt(conversation).ids;
    const TrainingPair pair = tokenizer.chat_pair(conversation, "the answer");
    ASSERT_EQ(pair.label_begin, static_cast<std::int64_t>(prompt.size()));
    EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), pair.ids.begin())) << "asked as it was trained";
    const TokenIds labels(pair.ids.begin() + pair.label_begin, pair.ids.end() - 1);
    EXPECT_EQ(tokenizer.clean_response(tokenizer.decode_all(labels)), "the answer");
    const TokenIds ends = tokenizer.end_ids();
    EXPECT_NE(std::find(ends.begin(), ends.end(), pair.ids.back()), ends.end()) << "generation stops there";
  }
}

TEST(HfTokenizer, SpecialTokensThatAUserWritesAreText) {
  for (const fs::path& folder : recorded_folders()) {
    SCOPED_TRACE(folder.string());
    const HfTokenizer tokenizer(folder);
    const std::string end = tokenizer.piece(tokenizer.eos_id());
    const std::string text = "before " + end + " behind";
    const auto count = [&](const TokenIds& ids) { return std::count(ids.begin(), ids.end(), tokenizer.eos_id()); };
    EXPECT_EQ(count(tokenizer.encode(text)), 1);
    EXPECT_EQ(count(tokenizer.encode_plain(text)), 0);
    EXPECT_EQ(count(tokenizer.chat_prompt({"", {}, text}).ids), count(tokenizer.chat_prompt({"", {}, "x"}).ids));
    EXPECT_EQ(count(tokenizer.chat_pair({"", {}, "x"}, text).ids), count(tokenizer.chat_pair({"", {}, "x"}, "y").ids));
    EXPECT_NE(tokenizer.decode(tokenizer.encode_plain(text)).find(end), std::string::npos) << "and nothing is lost";
  }
}

TEST_F(HfTokenizerTest, WhatIsNotSupportedIsNamedAtLoading) {
  const Json good = json_;
  const auto expect_named = [&](const char* key, const Json& part, const std::string& name) {
    json_ = good;
    json_[key] = part;
    EXPECT_NE(error().find(name), std::string::npos) << error();
  };
  expect_named("normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", ""}}, "\"Precompiled\"");
  expect_named("pre_tokenizer", {{"type", "BertPreTokenizer"}}, "\"BertPreTokenizer\"");
  expect_named("post_processor", {{"type", "RobertaProcessing"}}, "\"RobertaProcessing\"");
  expect_named("decoder", {{"type", "WordPiece"}}, "\"WordPiece\"");
  expect_named("something_new", 1, "\"something_new\"");
  Json model = good["model"];
  model["type"] = "Unigram";
  expect_named("model", model, "\"Unigram\"");
  model = good["model"];
  model["dropout"] = 0.1;
  expect_named("model", model, "dropout");
  model = good["model"];
  model["end_of_word_suffix"] = "</w>";
  expect_named("model", model, "end_of_word_suffix");
  model = good["model"];
  model["merges"].push_back("no such");
  expect_named("model", model, "merges");
  expect_named("pre_tokenizer",
               {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}, {"invert", false}},
               "regular expression");
}

TEST_F(HfTokenizerTest, BothSpellingsOfMergesAreRead) {
  const Json pairs = json_;
  const TokenIds expected = load().encode("The quick brown fox");
  Json merges = Json::array();
  for (const Json& merge : pairs["model"]["merges"]) {
    merges.push_back(merge.is_string()
                         ? Json::array({merge.get<std::string>().substr(0, merge.get<std::string>().find(' ')),
                                        merge.get<std::string>().substr(merge.get<std::string>().find(' ') + 1)})
                         : Json(merge[0].get<std::string>() + " " + merge[1].get<std::string>()));
  }
  json_["model"]["merges"] = merges;
  const HfTokenizer other = load();
  EXPECT_EQ(other.encode("The quick brown fox"), expected);
  json_ = pairs;
  EXPECT_EQ(other.fingerprint(), load().fingerprint());
}

TEST_F(HfTokenizerTest, GenerationConfigSaysWhatEndsAnAnswer) {
  config_["chat_template"] = "{% for m in messages %}{{ m['content'] }}<unk>{% endfor %}";
  io::write_json_file(folder_ / "generation_config.json", {{"eos_token_id", {7, 5}}, {"pad_token_id", 9}});
  const HfTokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.end_ids(), (TokenIds{0, 2, 5, 7})) << "the list, eos_token, and the template's";
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), 9);
  config_ = Json::object();
  fs::remove(folder_ / "generation_config.json");
  EXPECT_NE(error().find("eos_token"), std::string::npos);
  config_ = {{"eos_token", "<nowhere>"}};
  EXPECT_NE(error().find("<nowhere>"), std::string::npos);
}

TEST_F(HfTokenizerTest, TokensThatTheConfigurationNamesAreSpecial) {
  Json& added = json_["added_tokens"];
  added.erase(std::find_if(added.begin(), added.end(), [](const Json& one) { return one["content"] == "</s>"; }));
  for (Json& one : added) one["special"] = false;
  const HfTokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.encode("a</s>").back(), 2) << "of the vocabulary alone";
  EXPECT_EQ(tokenizer.decode({2}), "");
  EXPECT_EQ(tokenizer.decode({1}), "") << "bos_token";
  EXPECT_EQ(tokenizer.decode({0}), "<unk>") << "no role";
  config_["added_tokens_decoder"] = {{"0", {{"content", "<unk>"}, {"special", true}}}};
  EXPECT_EQ(load().decode({0}), "");
  config_ = {{"eos_token", "</s>"}, {"additional_special_tokens", {"<unk>"}}};
  EXPECT_EQ(load().decode({0}), "");
}

TEST_F(HfTokenizerTest, ABaseWithoutATemplateIsAskedOnlyByChoice) {
  const HfTokenizer undecided = load();
  EXPECT_THROW(undecided.has_chat_template(), Error);
  EXPECT_THROW(undecided.chat_prompt({"", {}, "x"}), Error);
  const HfTokenizer plain = load({{"chat_template", nullptr}});
  EXPECT_FALSE(plain.has_chat_template());
  EXPECT_EQ(plain.prompt_of("fox").ids, plain.build_prompt(plain.encode("fox")).ids);
  const HfTokenizer chosen =
      load({{"chat_template", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"}});
  ASSERT_TRUE(chosen.has_chat_template());
  EXPECT_EQ(chosen.decode(chosen.prompt_of("fox").ids), "user: fox\n");
  EXPECT_EQ(chosen.chat_pair({"", {}, "a"}, "b").ids.back(), chosen.eos_id()) << "the template has no end of its own";
  EXPECT_NE(error({{"chat_template", "{% macro x() %}"}}).find("macro"), std::string::npos);
  EXPECT_NE(error({{"chat_template", "no conversation at all"}}).find("template"), std::string::npos);
}

TEST_F(HfTokenizerTest, ATemplateThatLeavesPartsOutRefusesConversationsWithThem) {
  const HfTokenizer last = load({{"chat_template", "{{ messages[-1].content }}{{ eos_token }}"}});
  EXPECT_NO_THROW(last.chat_prompt({"", {}, "a"}));
  EXPECT_THROW(last.chat_prompt({"be brief", {}, "a"}), Error);
  EXPECT_THROW(last.chat_prompt({"", {{"a", "b"}}, "c"}), Error);
  const HfTokenizer all = load({{"chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"}});
  EXPECT_NO_THROW(all.chat_prompt({"be brief", {{"a", "b"}}, "c"}));
}

TEST_F(HfTokenizerTest, SeveralThreadsEncodeTheSameIds) {
  const HfTokenizer tokenizer = load(), other = load();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back("word" + std::to_string(i % 37) + " fox " + std::to_string(i));
  std::vector<TokenIds> expected;
  for (const std::string& text : texts) expected.push_back(other.encode(text));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& one : wrong) {
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < texts.size(); ++i) one += tokenizer.encode(texts[i]) == expected[i] ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST_F(HfTokenizerTest, BrokenTextsAndIdsWithoutAPieceAreHarmless) {
  const HfTokenizer tokenizer = load();
  EXPECT_EQ(tokenizer.encode("a\xff z"), tokenizer.encode("a\uFFFD z"));
  EXPECT_EQ(tokenizer.decode({1'000'000}), "");
  EXPECT_EQ(tokenizer.piece(1'000'000), "");
  EXPECT_THROW(tokenizer.decode({-1}), Error);
  const std::string long_text(300'000, 'a');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(long_text)), long_text);
}

}  // namespace
}  // namespace moelora::model
