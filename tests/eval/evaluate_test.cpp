#include "moelora/eval/evaluate.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <set>

#include "eval/metrics_fixture.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

constexpr std::int64_t kVocabulary = 130;
constexpr std::int64_t kOpening = 128;
constexpr std::int64_t kEnd = 129;

// A token is a byte; 128 opens an answer, 129 ends it.
class ByteTokenizer : public model::Tokenizer {
 public:
  model::TokenIds encode(std::string_view text) const override { return {text.begin(), text.end()}; }
  std::string decode(const model::TokenIds& ids) const override {
    std::string text;
    for (const std::int64_t id : ids) text += static_cast<char>(id);
    return text;
  }
  model::Prompt build_prompt(const model::TokenIds& source) const override {
    model::Prompt prompt{source, static_cast<std::int64_t>(source.size())};
    prompt.ids.push_back(kOpening);
    return prompt;
  }
  model::TrainingPair build_pair(const model::TokenIds& source, const model::TokenIds& target) const override {
    const model::Prompt prompt = build_prompt(source);
    model::TrainingPair pair{prompt.ids, prompt.bidirectional_rows};
    pair.ids.insert(pair.ids.end(), target.begin(), target.end());
    pair.ids.push_back(kEnd);
    return pair;
  }
  std::int64_t vocab_size() const override { return kVocabulary; }
  std::int64_t pad_id() const override { return 0; }
  std::int64_t eos_id() const override { return kEnd; }
  std::string clean_response(std::string text) const override { return "<" + text + ">"; }
  std::string fingerprint() const override { return "bytes"; }
};

// After the opening comes 'a'; 'a' to 'b', 'b' to 'c' and so on up to the end after 'd'. Hidden states carry the token.
class AlphabetModel : public model::CausalLM {
 public:
  AlphabetModel() { register_parameter("unused", at::zeros({1})); }
  at::Tensor hidden(const at::Tensor& ids, const at::Tensor&, const nn::RowContext& context,
                    const model::ForwardOptions& options) override {
    EXPECT_FALSE(is_training());
    EXPECT_FALSE(c10::GradMode::is_enabled());
    largest_batch = std::max(largest_batch, context.segments.count());
    const at::Tensor states = ids.to(at::kFloat).unsqueeze(1);
    return options.output_rows.defined() ? states.index_select(0, options.output_rows) : states;
  }
  at::Tensor logits(const at::Tensor& rows) override {
    at::Tensor result = at::zeros({rows.size(0), kVocabulary});
    for (std::int64_t row = 0; row < rows.size(0); ++row) {
      const auto token = static_cast<std::int64_t>(rows[row][0].item<float>());
      const std::int64_t next = token == kOpening ? 'a' : token == 'd' ? kEnd : token + 1;
      result[row][next] = 1.0;
    }
    return result;
  }
  at::Tensor head_weight() const override { return {}; }
  at::Tensor positions(const nn::Segments& segments) const override {
    return at::zeros({1, segments.rows()}, at::kLong);
  }
  at::Tensor position_at(std::int64_t, std::int64_t) const override { return at::zeros({1, 1}, at::kLong); }
  model::ModelShape shape() const override { return {1, 1, 1, 1, 1, kVocabulary, 64}; }

  std::int64_t largest_batch = 0;
};

std::vector<data::Record> alphabet_records() {
  std::vector<data::Record> records;
  for (const char* input : {"xx", "xxxxxxxx", "x", "xxxxx", "xxxx"}) {
    records.push_back(testing::make_record("MedDG", "truth"));
    records.back().input = input;
  }
  return records;
}

TEST(Evaluate, AnswersStandInTheOrderOfTheRecords) {
  AlphabetModel model;
  model.train();
  EvaluateOptions options;
  options.batch_size = 2;
  std::vector<std::vector<std::int64_t>> batches;
  std::vector<std::int64_t> done;
  const BatchContext context = [&](const std::vector<std::int64_t>& records) {
    batches.push_back(records);
    return [](const nn::Segments& segments) { return nn::RowContext::plain(segments); };
  };
  const Evaluation result = evaluate(model, ByteTokenizer(), alphabet_records(), options, context,
                                     [&](const EvaluateProgress& progress) { done.push_back(progress.done); });
  ASSERT_EQ(result.predictions.size(), 5U);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(result.predictions[i].target, "<abcd>");
    EXPECT_EQ(result.predictions[i].input, alphabet_records()[i].input);
  }
  EXPECT_EQ(batches, (std::vector<std::vector<std::int64_t>>{{1, 3}, {4, 0}, {2}}));
  EXPECT_EQ(done, (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_EQ(result.tokens, 25);
  EXPECT_EQ(result.unfinished, 0);
  EXPECT_EQ(model.largest_batch, 2);
  EXPECT_TRUE(model.is_training());
  EXPECT_TRUE(c10::GradMode::is_enabled());
}

TEST(Evaluate, RecordsAreAskedInTheirAskedFormAndPredictionsKeepTheirOwn) {
  AlphabetModel model;
  EvaluateOptions options;
  options.batch_size = 2;
  options.ask = [](data::Record record) {  // the shorter the input, the longer the prompt
    record.input += std::string(20 - 2 * record.input.size(), 'y');
    return record;
  };
  std::vector<std::vector<std::int64_t>> batches;
  const BatchContext context = [&](const std::vector<std::int64_t>& records) {
    batches.push_back(records);
    return [](const nn::Segments& segments) { return nn::RowContext::plain(segments); };
  };
  const Evaluation result = evaluate(model, ByteTokenizer(), alphabet_records(), options, context);
  EXPECT_EQ(batches, (std::vector<std::vector<std::int64_t>>{{2, 0}, {4, 3}, {1}}));
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(result.predictions[i].input, alphabet_records()[i].input);
  }
}

TEST(Evaluate, CutAnswersAreCounted) {
  AlphabetModel model;
  EvaluateOptions options;
  options.max_target_length = 2;
  const Evaluation result = evaluate(model, ByteTokenizer(), alphabet_records(), options);
  EXPECT_EQ(result.predictions.front().target, "<ab>");
  EXPECT_EQ(result.unfinished, 5);
  EXPECT_EQ(result.tokens, 10);
}

TEST(Evaluate, TokenBudgetBoundsABatch) {
  AlphabetModel model;
  EvaluateOptions options;
  options.max_target_length = 10;
  options.token_budget = 32;  // 19 for the longest prompt; 2 * 16 for the next two.
  evaluate(model, ByteTokenizer(), alphabet_records(), options);
  EXPECT_EQ(model.largest_batch, 2);
}

TEST(Evaluate, PartsTogetherGiveTheAnswersOfTheWhole) {
  AlphabetModel model;
  EvaluateOptions options;
  options.batch_size = 2;
  options.max_target_length = 6;
  options.generation.sample = true;
  options.generation.top_p = 1.0;
  const Evaluation whole = evaluate(model, ByteTokenizer(), alphabet_records(), options);
  EXPECT_EQ(whole.answered, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  for (const std::int64_t parts : {2, 3, 5}) {  // of five parts two have no batch
    std::vector<std::string> answers(5);
    std::int64_t tokens = 0;
    options.parts = parts;
    for (options.part = 0; options.part < parts; ++options.part) {
      const Evaluation part = evaluate(model, ByteTokenizer(), alphabet_records(), options);
      tokens += part.tokens;
      for (const std::int64_t record : part.answered) {
        EXPECT_EQ(answers[record], "");
        answers[record] = part.predictions[record].target;
      }
    }
    EXPECT_EQ(tokens, whole.tokens);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      EXPECT_EQ(answers[i], whole.predictions[i].target) << i << " of " << parts;
    }
  }
  options.part = options.parts;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), alphabet_records(), options), Error);
}

// Every answer is one token, drawn evenly out of 26: what it is depends on the random numbers alone.
class DiceModel : public AlphabetModel {
 public:
  at::Tensor logits(const at::Tensor& rows) override {
    at::Tensor result = at::full({rows.size(0), kVocabulary}, -100.0);
    result.slice(1, 'a', 'z' + 1).fill_(1.0);
    return result;
  }
};

std::vector<std::string> thrown(const std::vector<data::Record>& records, std::int64_t batch_size,
                                std::uint64_t seed = 1) {
  DiceModel model;
  EvaluateOptions options;
  options.batch_size = batch_size;
  options.max_target_length = 12;
  options.generation.sample = true;
  options.generation.seed = seed;
  std::vector<std::string> answers;
  for (const data::Record& record : evaluate(model, ByteTokenizer(), records, options).predictions) {
    answers.push_back(record.target);
  }
  return answers;
}

TEST(Evaluate, SampledAnswersBelongToTheirRecordsWhateverElseIsAsked) {
  std::vector<data::Record> records = alphabet_records();
  for (std::size_t i = 0; i < records.size(); ++i) records[i].sample_id = "id-" + std::to_string(i);
  const std::vector<std::string> alone = thrown(records, 1);
  EXPECT_EQ(std::set<std::string>(alone.begin(), alone.end()).size(), 5U);
  for (const std::int64_t batch_size : {2, 3, 16}) EXPECT_EQ(thrown(records, batch_size), alone) << batch_size;
  EXPECT_NE(thrown(records, 1, 2), alone) << "another seed";
  std::vector<data::Record> backwards(records.rbegin(), records.rend());
  std::vector<std::string> answers = thrown(backwards, 3);
  std::reverse(answers.begin(), answers.end());
  EXPECT_EQ(answers, alone);
  backwards.resize(2);
  EXPECT_EQ(thrown(backwards, 2)[0], alone[4]) << "without the other records";
  records[2].target = "another reference";
  EXPECT_EQ(thrown(records, 2), alone) << "what is right decides nothing";
}

TEST(Evaluate, RecordsThatAgreeInEverythingStillDrawApart) {
  std::vector<data::Record> records(3, testing::make_record("MedDG", "truth", {}, "same"));
  records.push_back(testing::make_record("CHIP-STS", "truth", {}, "same"));
  for (const std::string id : {"same", ""}) {
    for (data::Record& record : records) record.sample_id = id;
    const std::vector<std::string> answers = thrown(records, 2);
    EXPECT_EQ(std::set<std::string>(answers.begin(), answers.end()).size(), 4U) << id;
  }
}

TEST(Evaluate, KnownAnswersAreTakenOverByWholeBatches) {
  AlphabetModel model;
  EvaluateOptions options;
  options.batch_size = 2;
  std::vector<Answer> kept;
  options.on_answers = [&](const std::vector<Answer>& answers) {
    kept.insert(kept.end(), answers.begin(), answers.end());
  };
  const Evaluation whole = evaluate(model, ByteTokenizer(), alphabet_records(), options);
  ASSERT_EQ(kept.size(), 5U);
  EXPECT_EQ(kept[0].record, 1);  // the longest first
  EXPECT_EQ(kept[0].text, "<abcd>");
  EXPECT_EQ(kept[0].tokens, 5);
  EXPECT_TRUE(kept[0].finished);
  options.known = {kept[0], kept[1], kept[2]};  // a batch, and half of the next one
  options.known[0].text = "kept";
  options.known[2].text = "made again";
  kept.clear();
  const Evaluation rest = evaluate(model, ByteTokenizer(), alphabet_records(), options);
  EXPECT_EQ(kept.size(), 3U);
  EXPECT_EQ(rest.predictions[1].target, "kept");
  EXPECT_EQ(rest.predictions[4].target, "<abcd>");
  EXPECT_EQ(rest.answered, whole.answered);
  EXPECT_EQ(rest.tokens, whole.tokens);
  options.part = 1;
  options.parts = 2;
  for (const std::int64_t record : evaluate(model, ByteTokenizer(), alphabet_records(), options).answered) {
    EXPECT_NE(record, 1) << "known answers belong to the first part";
  }
  options.known[0].record = 5;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), alphabet_records(), options), Error);
}

TEST(Evaluate, PromptsThatAreCutAreCountedByName) {
  AlphabetModel model;  // takes 64 tokens
  std::vector<data::Record> records = alphabet_records();
  records[3].input = std::string(60, 'x');
  records[3].sample_id = "long";
  EvaluateOptions options;
  options.max_target_length = 10;
  const Evaluation cut = evaluate(model, ByteTokenizer(), records, options);
  EXPECT_EQ(cut.longest_prompt, 54);
  EXPECT_EQ(cut.cut_prompts.text(), "1 (long)");
  options.max_target_length = 3;
  EXPECT_EQ(evaluate(model, ByteTokenizer(), records, options).cut_prompts.count, 0);
  options.encode.max_source_length = 3;  // of 2, 8, 1, 60 and 4
  EXPECT_EQ(evaluate(model, ByteTokenizer(), records, options).cut_prompts.count, 3);
  options.encode.cut = data::Cut::error;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), records, options), Error);
  options.encode.max_source_length = 1000;
  records[3].input = std::string(70, 'x');
  try {
    evaluate(model, ByteTokenizer(), records, options);
    ADD_FAILURE() << "a prompt longer than the model";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("record long"), std::string::npos) << error.what();
  }
}

TEST(Evaluate, RejectsEmptyDataAndBatches) {
  AlphabetModel model;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), {}), Error);
  EvaluateOptions options;
  options.batch_size = 0;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), alphabet_records(), options), Error);
}

}  // namespace
}  // namespace moelora::eval
