#include "moelora/data/example.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/fakes.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/chatglm/tokenizer.h"
#include "support/shared.h"

namespace moelora::data {
namespace {

TEST(EncodePair, CutsSourceAndTargetButNeverTheEnd) {
  const fakes::ByteTokenizer tokenizer;
  Record record;
  record.input = "abcdefgh";
  record.target = "ABCDEFGH";
  EncodeOptions options;
  options.max_source_length = 6;
  options.max_target_length = 5;
  options.source_prefix = "> ";
  const Example example = encode_pair(record, 3, tokenizer, options);
  EXPECT_EQ(tokenizer.decode(example.ids), "> abcABC");
  EXPECT_EQ(example.ids.back(), fakes::kEnd);
  EXPECT_EQ(example.ids[static_cast<std::size_t>(example.context)], fakes::kStart);
  EXPECT_EQ(example.label_count(), 5);
  EXPECT_EQ(example.task, 3);
  EXPECT_TRUE(example.cut);
  options.max_source_length = 11;
  options.max_target_length = 10;
  EXPECT_FALSE(encode_pair(record, 3, tokenizer, options).cut);
  options.max_target_length = 2;
  EXPECT_THROW(encode_pair(record, 3, tokenizer, options), Error);
}

TEST(EncodePrompt, FitsTheSourceLengthWithItsOpening) {
  const fakes::ByteTokenizer tokenizer;
  Record record;
  record.input = "abcdefgh";
  EncodeOptions options;
  options.max_source_length = 6;
  EXPECT_EQ(encode_prompt(record, tokenizer, options),
            (model::TokenIds{'a', 'b', 'c', 'd', fakes::kGmask, fakes::kStart}));
  options.max_source_length = 2;
  EXPECT_THROW(encode_prompt(record, tokenizer, options), Error);
}

class ReferenceProcessor : public ::testing::TestWithParam<const char*> {};

TEST_P(ReferenceProcessor, RowsAreTheSame) {
  const std::filesystem::path folder = testing::shared() / "fixtures" / "tokenizer";
  const std::filesystem::path path = folder / (std::string("processor_") + GetParam() + ".json");
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << "the reference's rows are not here: " << path;
  }
  const model::ChatGlmTokenizer tokenizer(folder);
  const nlohmann::ordered_json golden = io::read_json_file(path);
  EncodeOptions options;
  options.max_source_length = golden["max_source_length"];
  options.max_target_length = golden["max_target_length"];
  options.source_prefix = golden["source_prefix"];
  std::size_t row = 0;
  for (const auto& json : golden["records"]) {
    Record record;
    record.input = json["input"];
    record.target = json["target"];
    record.task = json["task_dataset"];
    if (record.input.empty() || record.target.empty()) {
      continue;  // the reader leaves them out of training data
    }
    ASSERT_LT(row, golden["train_rows"].size());
    const auto labels = golden["train_rows"][row]["labels"].get<std::vector<std::int64_t>>();
    const Example example = encode_pair(record, 0, tokenizer, options);
    EXPECT_EQ(example.ids, golden["train_rows"][row]["input_ids"].get<model::TokenIds>()) << row;
    ASSERT_EQ(labels.size(), example.ids.size());
    for (std::int64_t i = 0; i < example.length(); ++i) {
      EXPECT_EQ(labels[static_cast<std::size_t>(i)],
                i < example.context ? -100 : example.ids[static_cast<std::size_t>(i)]);
    }
    ++row;
  }
  EXPECT_EQ(row, golden["train_rows"].size());
  std::size_t prompt = 0;
  for (const auto& json : golden["records"]) {
    if (prompt == golden["eval_first4"]["input_ids"].size()) {
      break;
    }
    Record record;
    record.input = json["input"];
    auto expected = golden["eval_first4"]["input_ids"][prompt].get<model::TokenIds>();
    expected.erase(expected.begin(), std::find_if(expected.begin(), expected.end(),
                                                  [&](std::int64_t id) { return id != tokenizer.pad_id(); }));
    EXPECT_EQ(encode_prompt(record, tokenizer, options), expected) << prompt;
    ++prompt;
  }
  EXPECT_EQ(prompt, golden["eval_first4"]["input_ids"].size());
}

TEST(Encode, EarlierRoundsAreWrittenInTheReferencesTemplate) {
  const model::ChatGlmTokenizer tokenizer(testing::fixtures() / "tokenizer");
  Record record;
  record.input = "还要吃药吗";
  record.target = "要";
  const EncodeOptions options;
  const auto source_of = [&](const std::string& text) { return tokenizer.build_prompt(tokenizer.encode(text)); };
  EXPECT_EQ(encode_prompt(record, tokenizer, options), source_of("还要吃药吗"));
  EncodeOptions as_rounds;
  as_rounds.with_history = true;
  const Example first = encode_pair(record, 0, tokenizer, as_rounds);
  const model::TokenIds round = source_of("[Round 0]\n问：还要吃药吗\n答：");
  EXPECT_EQ(model::TokenIds(first.ids.begin(), first.ids.begin() + static_cast<std::ptrdiff_t>(round.size())), round);
  EXPECT_EQ(encode_prompt(record, tokenizer, as_rounds), source_of("还要吃药吗"));
  record.history = {{"头痛", "多久了"}};
  EXPECT_EQ(encode_prompt(record, tokenizer, options),
            source_of("[Round 0]\n问：头痛\n答：多久了\n[Round 1]\n问：还要吃药吗\n答："));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferenceProcessor, ::testing::Values("short", "full"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace moelora::data
