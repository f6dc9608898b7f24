#include "moelora/eval/evaluate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "moelora/data/balance.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

// Evaluation mode for as long as it lives.
class EvaluationMode {
 public:
  explicit EvaluationMode(torch::nn::Module& module) : module_(module), was_training_(module.is_training()) {
    module_.eval();
  }
  ~EvaluationMode() { module_.train(was_training_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  torch::nn::Module& module_;
  bool was_training_;
};

using RecordBatch = std::vector<std::int64_t>;

// Longest prompts first: if memory does not suffice, the first batch says so.
std::vector<RecordBatch> batches_by_length(const std::vector<model::TokenIds>& prompts,
                                           const EvaluateOptions& options) {
  RecordBatch order(prompts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return prompts[a].size() > prompts[b].size(); });
  std::vector<RecordBatch> batches;
  std::int64_t longest = 0;  // of the batch: the cache has this much room for each of its sequences
  for (const std::int64_t record : order) {
    const auto size = batches.empty() ? 0 : static_cast<std::int64_t>(batches.back().size());
    if (size == 0 || size == options.batch_size ||
        (options.token_budget > 0 && (size + 1) * longest > options.token_budget)) {
      batches.emplace_back();
      longest = static_cast<std::int64_t>(prompts[record].size()) + options.max_target_length;
    }
    batches.back().push_back(record);
  }
  return batches;
}

// The first record's place in the order of all batches, by batch.
std::vector<std::int64_t> places_of(const std::vector<RecordBatch>& batches) {
  std::vector<std::int64_t> places;
  std::int64_t next = 0;
  for (const RecordBatch& batch : batches) {
    places.push_back(next);
    next += static_cast<std::int64_t>(batch.size());
  }
  return places;
}

// Which batches belong to this part: each costs its prompts, and its longest answers at the worst.
std::vector<std::int64_t> batches_of_part(const std::vector<RecordBatch>& batches,
                                          const std::vector<model::TokenIds>& prompts, const EvaluateOptions& options) {
  std::vector<std::int64_t> costs;
  for (const RecordBatch& batch : batches) {
    costs.push_back(options.max_target_length * static_cast<std::int64_t>(batch.size()));
    for (const std::int64_t record : batch) {
      costs.back() += static_cast<std::int64_t>(prompts[record].size());
    }
  }
  return data::balance(costs, options.parts).at(static_cast<std::size_t>(options.part));
}

}  // namespace

Evaluation evaluate(model::CausalLM& model, const model::Tokenizer& tokenizer, const std::vector<data::Record>& records,
                    const EvaluateOptions& options, const BatchContext& context, const ProgressCallback& on_progress) {
  MOELORA_CHECK(!records.empty(), "expected records to evaluate, found none: check the data file");
  MOELORA_CHECK(options.batch_size >= 1 && options.max_target_length >= 1,
                "expected a batch size and a target length of at least 1, found ", options.batch_size, " and ",
                options.max_target_length, ": correct the configuration");
  MOELORA_CHECK(options.part >= 0 && options.part < options.parts, "expected a part below ", options.parts, ", found ",
                options.part);
  const auto start = std::chrono::steady_clock::now();
  const c10::AutoGradMode no_gradients(false);
  const EvaluationMode evaluation_mode(model);

  std::vector<model::TokenIds> prompts;
  prompts.reserve(records.size());
  for (const data::Record& record : records) {
    prompts.push_back(data::encode_prompt(options.ask ? options.ask(record) : record, tokenizer, options.encode));
  }

  Evaluation result;
  result.predictions = records;
  EvaluateProgress progress;
  const std::vector<RecordBatch> batches = batches_by_length(prompts, options);
  const std::vector<std::int64_t> places = places_of(batches);
  const std::vector<std::int64_t> part = batches_of_part(batches, prompts, options);
  for (const std::int64_t index : part) {
    progress.total += static_cast<std::int64_t>(batches[index].size());
  }
  for (const std::int64_t index : part) {
    const RecordBatch& batch = batches[index];
    std::vector<model::TokenIds> batch_prompts;
    std::vector<std::int64_t> context_lengths;
    for (const std::int64_t record : batch) {
      batch_prompts.push_back(prompts[record]);
      const auto length = static_cast<std::int64_t>(prompts[record].size());
      context_lengths.push_back(tokenizer.context_length(length - tokenizer.prompt_overhead()));
    }
    model::GenerationOptions generation = options.generation;
    generation.max_new_tokens = options.max_target_length;
    generation.eos_id = tokenizer.eos_id();
    // Streams are numbered within a call: without this, batches would share their random numbers.
    generation.seed += static_cast<std::uint64_t>(places[index]) * 0x9E3779B97F4A7C15ULL;
    const auto answers = model::generate(model, batch_prompts, context_lengths, generation,
                                         context ? context(batch) : model::ContextMaker{});
    for (std::size_t i = 0; i < batch.size(); ++i) {
      result.answered.push_back(batch[i]);
      result.predictions[batch[i]].target = tokenizer.clean_response(tokenizer.decode(answers[i].ids));
      result.tokens += static_cast<std::int64_t>(answers[i].ids.size()) + (answers[i].finished ? 1 : 0);
      result.unfinished += answers[i].finished ? 0 : 1;
    }
    progress.done += static_cast<std::int64_t>(batch.size());
    progress.tokens = result.tokens;
    if (on_progress) on_progress(progress);
  }
  std::sort(result.answered.begin(), result.answered.end());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moelora::eval
