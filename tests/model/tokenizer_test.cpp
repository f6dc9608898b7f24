#include "moelora/model/tokenizer.h"

#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::model {
namespace {

// Puts two tokens in front of a source and one behind it; has no form for conversations.
class PlainTokenizer : public Tokenizer {
 public:
  TokenIds encode(std::string_view text) const override { return TokenIds(text.size(), 1); }
  std::string decode(const TokenIds& ids) const override { return std::string(ids.size(), '.'); }
  Prompt build_prompt(const TokenIds& source) const override {
    Prompt prompt{{7, 8}};
    prompt.ids.insert(prompt.ids.end(), source.begin(), source.end());
    prompt.ids.push_back(9);
    return prompt;
  }
  TrainingPair build_pair(const TokenIds& source, const TokenIds&) const override {
    return {source, static_cast<std::int64_t>(source.size())};
  }
  std::int64_t vocab_size() const override { return 10; }
  std::int64_t pad_id() const override { return 0; }
  std::int64_t eos_id() const override { return 2; }
  std::string clean_response(std::string text) const override { return text; }
  std::string fingerprint() const override { return "plain"; }
};

TEST(Tokenizer, CountsTheSpecialTokensOfAPrompt) {
  EXPECT_EQ(PlainTokenizer().special_tokens_per_prompt(), 3);
  EXPECT_EQ(PlainTokenizer().build_prompt({1, 1}).bidirectional_rows, 0);
}

TEST(Tokenizer, WithoutAFormForConversationsOneIsAnError) {
  try {
    PlainTokenizer().conversation_text({{"question", "answer"}}, "next");
    FAIL() << "joined somehow";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("1 earlier rounds"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace moelora::model
