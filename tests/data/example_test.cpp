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
  EXPECT_EQ(example.ids[static_cast<std::size_t>(example.label_begin)], fakes::kStart);
  EXPECT_EQ(example.label_count(), 5);
  EXPECT_EQ(example.task, 3);
  EXPECT_TRUE(example.source_cut);
  EXPECT_TRUE(example.target_cut);
  options.max_source_length = 11;
  options.max_target_length = 10;
  EXPECT_FALSE(encode_pair(record, 3, tokenizer, options).source_cut);
  EXPECT_FALSE(encode_pair(record, 3, tokenizer, options).target_cut);
  options.max_target_length = 2;
  EXPECT_THROW(encode_pair(record, 3, tokenizer, options), Error);
}

TEST(EncodePrompt, FitsTheSourceLengthWithItsOpening) {
  const fakes::ByteTokenizer tokenizer;
  Record record;
  record.input = "abcdefgh";
  EncodeOptions options;
  options.max_source_length = 6;
  EXPECT_EQ(encode_prompt(record, tokenizer, options).ids,
            (model::TokenIds{'a', 'b', 'c', 'd', fakes::kGmask, fakes::kStart}));
  options.max_source_length = 2;
  EXPECT_THROW(encode_prompt(record, tokenizer, options), Error);
}

TEST(EncodePrompt, LosesThePartThatIsChosenAndSaysHowMuch) {
  const fakes::ByteTokenizer tokenizer;
  Record record;
  record.input = "abcdefgh";
  record.target = "ABCDEFGH";
  EncodeOptions options;
  options.max_source_length = 7;  // two of them open the answer
  const auto kept = [&](Cut cut) {
    options.cut = cut;
    std::int64_t removed = 0;
    const std::string text = tokenizer.decode(encode_prompt(record, tokenizer, options, &removed).ids);
    EXPECT_EQ(removed, 3);
    return text;
  };
  EXPECT_EQ(EncodeOptions().cut, Cut::tail) << "training and the reference's rows";
  EXPECT_EQ(kept(Cut::tail), "abcde");
  EXPECT_EQ(kept(Cut::head), "defgh");
  EXPECT_EQ(kept(Cut::middle), "abcgh");
  options.max_target_length = 5;  // training leaves a source one token more, and takes the target's end in any case
  EXPECT_EQ(tokenizer.decode(encode_pair(record, 0, tokenizer, options).ids), "abcfghABC");
  options.max_source_length = 20;
  std::int64_t removed = 1;
  EXPECT_EQ(tokenizer.decode(encode_prompt(record, tokenizer, options, &removed).ids), "abcdefgh");
  EXPECT_EQ(removed, 0);
}

TEST(EncodePrompt, CutErrorNamesTheRecordAndItsLength) {
  const fakes::ByteTokenizer tokenizer;
  Record record;
  record.input = "abcdefgh";
  record.target = "ABCDEFGH";
  record.line = 7;
  EncodeOptions options;
  options.cut = cut_from_name("error");
  const auto message = [&](auto&& encode) -> std::string {
    try {
      encode();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const auto prompt = [&] { encode_prompt(record, tokenizer, options); };
  const auto pair = [&] { encode_pair(record, 0, tokenizer, options); };
  EXPECT_EQ(message(prompt), "");
  EXPECT_EQ(message(pair), "");
  options.max_source_length = 9;
  EXPECT_NE(message(prompt).find("record line 7: its source has 8 tokens, expected at most 7"), std::string::npos)
      << message(prompt);
  EXPECT_EQ(message(pair), "");
  record.sample_id = "a-1";
  options.max_target_length = 9;
  EXPECT_NE(message(pair).find("record a-1: its target has 8 tokens, expected at most 7"), std::string::npos)
      << message(pair);
  EXPECT_THROW(cut_from_name("front"), Error);
}

TEST(CountedRecords, NameTheFirstFew) {
  CountedRecords records;
  EXPECT_EQ(records.text(), "0");
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    records.add(name);
  }
  EXPECT_EQ(records.text(), "5 (a, b, c, d, e)");
  records.add("f");
  EXPECT_EQ(records.text(), "6 (a, b, c, d, e, …)");
}

TEST(LongestPrompt, IsWhatTheAnswerLeavesButAtLeastHalf) {
  EXPECT_EQ(longest_prompt(2048, 196), 1852);
  EXPECT_EQ(longest_prompt(128, 196), 64);
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
                i < example.label_begin ? -100 : example.ids[static_cast<std::size_t>(i)]);
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
    EXPECT_EQ(encode_prompt(record, tokenizer, options).ids, expected) << prompt;
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
  const auto source_of = [&](const std::string& text) { return tokenizer.build_prompt(tokenizer.encode(text)).ids; };
  EXPECT_EQ(encode_prompt(record, tokenizer, options).ids, source_of("还要吃药吗"));
  EncodeOptions as_rounds;
  as_rounds.with_history = true;
  const Example first = encode_pair(record, 0, tokenizer, as_rounds);
  const model::TokenIds round = source_of("[Round 0]\n问：还要吃药吗\n答：");
  EXPECT_EQ(model::TokenIds(first.ids.begin(), first.ids.begin() + static_cast<std::ptrdiff_t>(round.size())), round);
  EXPECT_EQ(encode_prompt(record, tokenizer, as_rounds).ids, source_of("还要吃药吗"));
  record.history = {{"头痛", "多久了"}};
  EXPECT_EQ(encode_prompt(record, tokenizer, options).ids,
            source_of("[Round 0]\n问：头痛\n答：多久了\n[Round 1]\n问：还要吃药吗\n答："));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferenceProcessor, ::testing::Values("short", "full"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace moelora::data
