#include "moelora/model/chatglm/tokenizer.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "moelora/io/error.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

using Json = nlohmann::ordered_json;

std::filesystem::path tokenizer_fixtures() { return testing::fixtures() / "tokenizer"; }

Json tokenizer_fixture(const char* name) {
  std::ifstream file(tokenizer_fixtures() / name);
  return Json::parse(file);
}

/// The text of the error that `action` throws; empty if it throws none.
template <typename Action>
std::string tokenizer_error(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

void expect_pairs(const ChatGlmTokenizer& tokenizer, const Json& pairs) {
  ASSERT_FALSE(pairs.empty());
  for (const Json& pair : pairs) {
    const std::string text = pair["text"];
    SCOPED_TRACE(text);
    const TokenIds ids = tokenizer.encode(text);
    EXPECT_EQ(ids, pair["ids"].get<TokenIds>());
    EXPECT_EQ(tokenizer.build_prompt(ids).ids, pair["ids_special"].get<TokenIds>());
    std::vector<std::string> pieces;
    for (const std::int64_t id : ids) pieces.push_back(tokenizer.piece(id));
    EXPECT_EQ(pieces, pair["pieces"].get<std::vector<std::string>>());
    EXPECT_EQ(tokenizer.decode(ids), pair["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(pair["ids_special"].get<TokenIds>()), pair["decoded_special"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(pair["ids_special"].get<TokenIds>()), pair["decoded_skip_special"].get<std::string>());
  }
}

TEST(ChatGlmTokenizer, TextsBecomeTheReferencesTokensAndTextAgain) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  const Json golden = tokenizer_fixture("pairs.json");
  EXPECT_EQ(golden["pairs"].size(), 60u);
  expect_pairs(tokenizer, golden["pairs"]);
}

TEST(ChatGlmTokenizer, SpecialTokensHaveTheReferencesIds) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  const Json golden = tokenizer_fixture("pairs.json");
  EXPECT_EQ(tokenizer.vocab_size(), golden["len_tokenizer"].get<std::int64_t>());
  for (const auto& [name, id] : golden["special_ids"].items()) EXPECT_EQ(tokenizer.piece(id), name);
  EXPECT_EQ(tokenizer.pad_id(), golden["special_ids"]["<pad>"].get<std::int64_t>());
  EXPECT_EQ(tokenizer.bos_id(), golden["special_ids"]["<sop>"].get<std::int64_t>());
  EXPECT_EQ(tokenizer.eos_id(), golden["special_ids"]["<eop>"].get<std::int64_t>());
  EXPECT_EQ(tokenizer.gmask_id(), golden["special_ids"]["[gMASK]"].get<std::int64_t>());
}

TEST(ChatGlmTokenizer, OptionsActAsInTheReference) {
  const Json golden = tokenizer_fixture("options.json");
  const auto file = tokenizer_fixtures() / "ice_text.model";
  ChatGlmTokenizerOptions options;
  options.num_image_tokens = 0;
  options.do_lower_case = true;
  expect_pairs(ChatGlmTokenizer(file, options), golden["do_lower_case"]);
  options.do_lower_case = false;
  options.remove_space = true;
  expect_pairs(ChatGlmTokenizer(file, options), golden["remove_space"]);
  options.remove_space = false;
  options.num_image_tokens = 20000;
  const ChatGlmTokenizer shifted(file, options);
  expect_pairs(shifted, golden["num_image_tokens_20000"]);
  EXPECT_EQ(shifted.piece(0), "<image_0>");
  EXPECT_EQ(shifted.piece(19999), "<image_19999>");
  EXPECT_EQ(shifted.piece(20004), "<n>");
}

TEST(ChatGlmTokenizer, LowerCaseReachesBeyondAscii) {
  ChatGlmTokenizerOptions options;
  options.num_image_tokens = 0;
  const ChatGlmTokenizer plain(tokenizer_fixtures() / "ice_text.model", options);
  options.do_lower_case = true;
  const ChatGlmTokenizer lower(tokenizer_fixtures() / "ice_text.model", options);
  EXPECT_EQ(lower.encode("ÄÉŸĀ ΑΣ ЯЖ Ⅷ Ạ 𐐀 İ 中"), plain.encode("äéÿā ασ яж ⅷ ạ 𐐨 i\u0307 中"));
  EXPECT_EQ(lower.encode("ǅ×ÿß𝐀"), plain.encode("ǆ×ÿß𝐀"));
}

TEST(ChatGlmTokenizer, LineBreaksBlanksAndDummyPrefixCanBeLeftOut) {
  const Json golden = tokenizer_fixture("sp_options.json");
  const ChatGlmTokenizer unprefixed(tokenizer_fixtures(), Json{{"dummy_prefix", false}});
  const ChatGlmTokenizer unmarked(tokenizer_fixtures(), Json{{"linebreak", false}, {"whitespace", false}});
  for (const Json& item : golden["encode_without_dummy_prefix"]) {
    EXPECT_EQ(unprefixed.encode(item["text"].get<std::string>()), item["ids"].get<TokenIds>());
  }
  for (const Json& item : golden["encode_no_linebreak_no_whitespace"]) {
    EXPECT_EQ(unmarked.encode(item["text"].get<std::string>()), item["ids"].get<TokenIds>());
  }
}

TEST(ChatGlmTokenizer, BrokenBytesPadsAndSpecialsDecodeAsInTheReference) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  for (const Json& item : tokenizer_fixture("decode.json")) {
    EXPECT_EQ(tokenizer.decode(item["ids"].get<TokenIds>()), item["decoded"].get<std::string>()) << item["ids"];
  }
}

TEST(ChatGlmTokenizer, PromptsAndPairsAreBuiltAsInTheReference) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  for (const Json& item : tokenizer_fixture("build_inputs.json")) {
    const TokenIds a = item["a"].get<TokenIds>();
    if (item["b"].is_null()) {
      const Prompt prompt = tokenizer.build_prompt(a);
      EXPECT_EQ(prompt.ids, item["ids"].get<TokenIds>());
      EXPECT_EQ(prompt.ids.at(prompt.bidirectional_rows - 1), tokenizer.gmask_id());
      EXPECT_EQ(prompt.length(), static_cast<std::int64_t>(a.size()) + tokenizer.special_tokens_per_prompt());
    } else {
      const TrainingPair pair = tokenizer.build_pair(a, item["b"].get<TokenIds>());
      EXPECT_EQ(pair.ids, item["ids"].get<TokenIds>());
      EXPECT_EQ(pair.ids.at(pair.label_begin), tokenizer.bos_id());
    }
  }
}

TEST(ChatGlmTokenizer, ConversationsAreWrittenInRounds) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  EXPECT_EQ(tokenizer.conversation_text({}, "还要吃药吗"), "[Round 0]\n问：还要吃药吗\n答：");
  EXPECT_EQ(tokenizer.conversation_text({{"头痛", "多久了"}}, "还要吃药吗"),
            "[Round 0]\n问：头痛\n答：多久了\n[Round 1]\n问：还要吃药吗\n答：");
}

TEST(ChatGlmTokenizer, ResponsesAreCleanedAsInTheReference) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  for (const Json& item : tokenizer_fixture("process_response.json")) {
    EXPECT_EQ(tokenizer.clean_response(item["raw"]), item["processed"].get<std::string>());
  }
}

TEST(ChatGlmTokenizer, RandomBytesNeitherCrashNorHang) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  std::mt19937 random(7);
  const std::vector<std::string> parts = {"头痛", "\xF0\x9F\x98\x80", "\xE4\xBD", "\xFF",    "\x80", "<sop>", " ", "\n",
                                          "\t",   "<|blank",          "a",        "<|tab|>", "，",   ":"};
  for (int round = 0; round < 20; ++round) {
    std::string text;
    for (unsigned i = random() % 200; i > 0; --i) {
      text += random() % 3 == 0 ? std::string(1, static_cast<char>(random())) : parts[random() % parts.size()];
    }
    TokenIds ids = tokenizer.encode(text);
    const std::string decoded = tokenizer.decode(ids);
    EXPECT_LE(ids.size(), 4 * text.size() + 2);
    EXPECT_LE(tokenizer.clean_response(decoded).size(), 3 * decoded.size());
    for (std::int64_t& id : ids) id = static_cast<std::int64_t>(random() % 3846);
    tokenizer.decode(ids);
  }
}

TEST(ChatGlmTokenizer, AnIdOutsideTheVocabularyIsAnErrorWithTheRange) {
  const ChatGlmTokenizer tokenizer(tokenizer_fixtures());
  for (const std::int64_t id : {std::int64_t{-1}, std::int64_t{3846}, std::int64_t{1} << 40}) {
    const std::string error = tokenizer_error([&] { tokenizer.decode({5, id}); });
    EXPECT_NE(error.find(std::to_string(id)), std::string::npos) << error;
    EXPECT_NE(error.find("0 to 3845"), std::string::npos) << error;
    EXPECT_FALSE(tokenizer_error([&] { tokenizer.piece(id); }).empty());
  }
}

TEST(ChatGlmTokenizer, AMissingOrForeignModelIsAnErrorThatNamesIt) {
  const testing::TemporaryFolder folder;
  std::string error = tokenizer_error([&] { ChatGlmTokenizer tokenizer(folder.path()); });
  EXPECT_NE(error.find((folder.path() / "ice_text.model").string()), std::string::npos) << error;

  std::ofstream(folder.path() / "ice_text.model") << "this is not a model";
  error = tokenizer_error([&] { ChatGlmTokenizer tokenizer(folder.path()); });
  EXPECT_NE(error.find("SentencePiece"), std::string::npos) << error;
  EXPECT_NE(error.find("ice_text.model"), std::string::npos) << error;

  std::filesystem::copy_file(tokenizer_fixtures() / "ice_text.model", folder.path() / "ice_text.model",
                             std::filesystem::copy_options::overwrite_existing);
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"gmask_token": "[hMASK]", "num_image_tokens": 0})";
  error = tokenizer_error([&] { ChatGlmTokenizer tokenizer(folder.path()); });
  EXPECT_NE(error.find("[hMASK]"), std::string::npos) << error;
  EXPECT_NE(error.find("ice_text.model"), std::string::npos) << error;

  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"num_image_tokens": "many"})";
  error = tokenizer_error([&] { ChatGlmTokenizer tokenizer(folder.path()); });
  EXPECT_NE(error.find("num_image_tokens"), std::string::npos) << error;
}

TEST(ChatGlmTokenizer, TheModelsConfigurationGivesOrChecksTheOffset) {
  const testing::TemporaryFolder folder;
  std::filesystem::copy_file(tokenizer_fixtures() / "ice_text.model", folder.path() / "ice_text.model");
  EXPECT_EQ(ChatGlmTokenizer(folder.path()).bos_id(), 23506);  // the first distribution's default
  std::ofstream(folder.path() / "config.json") << R"({"bos_token_id": 3506})";
  EXPECT_EQ(ChatGlmTokenizer(folder.path()).bos_id(), 3506);
  std::ofstream(folder.path() / "config.json") << R"({"bos_token_id": 23506})";
  EXPECT_EQ(ChatGlmTokenizer(folder.path()).bos_id(), 23506);
  std::ofstream(folder.path() / "tokenizer_config.json") << R"({"num_image_tokens": 0})";
  const std::string error = tokenizer_error([&] { ChatGlmTokenizer tokenizer(folder.path()); });
  EXPECT_NE(error.find("23506"), std::string::npos) << error;
}

TEST(ChatGlmTokenizer, FingerprintsTellVocabulariesAndOptionsApart) {
  const auto file = tokenizer_fixtures() / "ice_text.model";
  ChatGlmTokenizerOptions options;
  options.num_image_tokens = 0;
  const std::string plain = ChatGlmTokenizer(file, options).fingerprint();
  EXPECT_EQ(plain.size(), 64u);
  EXPECT_EQ(plain, ChatGlmTokenizer(tokenizer_fixtures()).fingerprint());
  options.remove_space = true;
  EXPECT_NE(plain, ChatGlmTokenizer(file, options).fingerprint());
  EXPECT_NE(plain, ChatGlmTokenizer(testing::fixtures() / "chatglm-tiny").fingerprint());
}

// Both libraries have a FLAGS_minloglevel (cmake/Dependencies.cmake); in the wrong order this aborts the process.
TEST(ChatGlmTokenizer, LinkedWithLibTorchLeavesItsErrorsErrors) {
  EXPECT_THROW(at::empty({std::int64_t{1} << 50}), c10::Error);
}

}  // namespace
}  // namespace moelora::model
