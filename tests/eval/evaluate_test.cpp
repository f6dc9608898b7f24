#include "moelora/eval/evaluate.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>

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
  model::TokenIds build_prompt(const model::TokenIds& source) const override {
    model::TokenIds ids = source;
    ids.push_back(kOpening);
    return ids;
  }
  model::TokenIds build_pair(const model::TokenIds& source, const model::TokenIds& target) const override {
    model::TokenIds ids = build_prompt(source);
    ids.insert(ids.end(), target.begin(), target.end());
    ids.push_back(kEnd);
    return ids;
  }
  std::int64_t context_length(std::int64_t source_length) const override { return source_length; }
  std::int64_t prompt_overhead() const override { return 1; }
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
  std::int64_t vocab_size() const override { return kVocabulary; }
  std::int64_t hidden_size() const override { return 1; }
  std::int64_t num_layers() const override { return 1; }
  std::int64_t num_heads() const override { return 1; }
  std::int64_t max_sequence_length() const override { return 64; }

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
  const BatchContext context = [&](const std::vector<std::int64_t>& records) -> model::ContextMaker {
    batches.push_back(records);
    return
        [](const nn::Segments& segments, const std::vector<std::int64_t>&) { return nn::RowContext::plain(segments); };
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
  const BatchContext context = [&](const std::vector<std::int64_t>& records) -> model::ContextMaker {
    batches.push_back(records);
    return
        [](const nn::Segments& segments, const std::vector<std::int64_t>&) { return nn::RowContext::plain(segments); };
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

// Sampling too: an answer depends on its batch, so the parts must have the batches of the whole.
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

TEST(Evaluate, RejectsEmptyDataAndBatches) {
  AlphabetModel model;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), {}), Error);
  EvaluateOptions options;
  options.batch_size = 0;
  EXPECT_THROW(evaluate(model, ByteTokenizer(), alphabet_records(), options), Error);
}

}  // namespace
}  // namespace moelora::eval
