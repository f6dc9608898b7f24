// Model folders whose config.json or tokenizer claim more than the files hold.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/load.h"
#include "moelora/model/chatglm/tokenizer.h"
#include "support/bounded.h"
#include "support/shared.h"
#include "support/tiny_chatglm.h"

namespace moelora::model {
namespace {

using testing::bounded;

class BoundedModels : public ::testing::Test {
 protected:
  void SetUp() override { save_chatglm(*ChatGlm(testing::tiny_config()), folder_.path()); }
  ::testing::AssertionResult config(const std::function<void(nlohmann::ordered_json&)>& change,
                                    const std::string& part) const {
    const auto before = io::read_json_file(folder_.path() / "config.json");
    auto json = before;
    change(json);
    io::write_json_file(folder_.path() / "config.json", json);
    const auto result = bounded([&] { load_chatglm(folder_.path()); }, part);
    io::write_json_file(folder_.path() / "config.json", before);
    return result;
  }
  testing::TemporaryFolder folder_;
};

TEST_F(BoundedModels, TheWeightsBackWhatTheConfigurationClaims) {
  EXPECT_TRUE(config([](auto&) {}, ""));
  EXPECT_TRUE(config([](auto& json) { json["num_layers"] = 4000; }, "fewer than one for each layer"));
  EXPECT_TRUE(config([](auto& json) { json["num_layers"] = 1000000000; }, "num_layers is 1000000000"));
  EXPECT_TRUE(config([](auto& json) { json["vocab_size"] = 4000000000; }, "shape of transformer.word_embeddings"));
  EXPECT_TRUE(config([](auto& json) { json["vocab_size"] = 1000000000000; }, "vocab_size is 1000000000000"));
  EXPECT_TRUE(config([](auto& json) { json["hidden_size"] = 1 << 20; }, "shape of"));
  EXPECT_TRUE(config([](auto& json) { json["hidden_size"] = INT64_MAX; }, "hidden_size is"));
  EXPECT_TRUE(config([](auto& json) { json["inner_hidden_size"] = 1 << 30; }, "shape of"));
  EXPECT_TRUE(config([](auto& json) { json["bos_token_id"] = INT64_MIN; }, "bos_token_id is"));
  EXPECT_TRUE(config([](auto& json) { json["strange"] = std::string(1000000, 'x'); }, ""));
  EXPECT_TRUE(
      config([](auto& json) { json["num_layers"] = std::string(1000000, 'x'); }, "num_layers has the wrong type"));
}

TEST_F(BoundedModels, SizesWhoseProductOverflowsAreRefused) {
  nlohmann::ordered_json json = testing::tiny_config().to_json();
  json["vocab_size"] = json["hidden_size"] = json["inner_hidden_size"] = std::int64_t{1} << 32;
  json["num_layers"] = 4096;
  EXPECT_TRUE(bounded([&] { ChatGlmConfig::from_json(json).parameter_count(false); }, "parameters, expected at most"));
}

TEST_F(BoundedModels, TokenizersAreBounded) {
  const auto model = testing::fixtures() / "tokenizer" / "ice_text.model";
  const auto tokenizer = [&](const std::string& part) {
    return bounded([&] { ChatGlmTokenizer opened(folder_.path()); }, part);
  };
  const auto settings = folder_.path() / "tokenizer_config.json";
  std::filesystem::remove(folder_.path() / "config.json");
  std::filesystem::copy_file(model, folder_.path() / "ice_text.model");
  EXPECT_TRUE(tokenizer(""));
  for (const char* value : {"9223372036854775807", "-1", "1e300", "4294967296"}) {
    std::ofstream(settings) << R"({"num_image_tokens": )" << value << "}";
    EXPECT_TRUE(tokenizer("num_image_tokens")) << value;
  }
  std::filesystem::remove(settings);
  std::filesystem::resize_file(folder_.path() / "ice_text.model", std::uintmax_t{1} << 34);
  EXPECT_TRUE(tokenizer("expected a SentencePiece model of at most"));
  std::filesystem::resize_file(folder_.path() / "ice_text.model", 100);
  EXPECT_TRUE(tokenizer("ice_text.model"));
}

TEST_F(BoundedModels, LongTextsAreEncodedInLinearTime) {
  const ChatGlmTokenizer tokenizer(testing::fixtures() / "tokenizer");
  for (const char* part : {" ", "\n", "<", "a", "患", "\xff", "<eop>", "  \t"}) {
    EXPECT_TRUE(bounded([&] { tokenizer.decode(tokenizer.encode(testing::repeated(part, 200000))); }, "", 1000))
        << part;
  }
}

}  // namespace
}  // namespace moelora::model
