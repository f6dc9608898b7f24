#include "moelora/eval/evaluate.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <unordered_map>

#include "moelora/data/balance.h"
#include "moelora/eval/python_text.h"
#include "moelora/io/error.h"
#include "moelora/io/sha256.h"
#include "moelora/io/splitmix64.h"
#include "moelora/log/log.h"

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
std::vector<RecordBatch> batches_by_length(const std::vector<model::Prompt>& prompts, const EvaluateOptions& options) {
  RecordBatch order(prompts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return prompts[a].length() > prompts[b].length(); });
  std::vector<RecordBatch> batches;
  std::int64_t longest = 0;  // of the batch: the cache has this much room for each of its sequences
  for (const std::int64_t record : order) {
    const auto size = batches.empty() ? 0 : static_cast<std::int64_t>(batches.back().size());
    if (size == 0 || size == options.batch_size ||
        (options.token_budget > 0 && (size + 1) * longest > options.token_budget)) {
      batches.emplace_back();
      longest = prompts[record].length() + options.max_target_length;
    }
    batches.back().push_back(record);
  }
  return batches;
}

// Which batches belong to this part: each costs its prompts, and its longest answers at the worst.
std::vector<std::int64_t> batches_of_part(const std::vector<RecordBatch>& batches,
                                          const std::vector<model::Prompt>& prompts, const EvaluateOptions& options) {
  std::vector<std::int64_t> costs;
  for (const RecordBatch& batch : batches) {
    costs.push_back(options.max_target_length * static_cast<std::int64_t>(batch.size()));
    for (const std::int64_t record : batch) {
      costs.back() += prompts[record].length();
    }
  }
  return data::balance(costs, options.parts).at(static_cast<std::size_t>(options.part));
}

// Takes the answers that are there over, and leaves only the batches that still have to be answered.
void take_known_answers(const EvaluateOptions& options, Evaluation& result, std::vector<RecordBatch>& batches) {
  std::vector<const Answer*> known(result.predictions.size());
  for (const Answer& answer : options.known) {
    MOELORA_CHECK(answer.record >= 0 && answer.record < static_cast<std::int64_t>(known.size()),
                  "expected known answers of ", known.size(), " records, found one of record ", answer.record);
    known[answer.record] = &answer;
  }
  std::erase_if(batches, [&](const RecordBatch& batch) {
    if (!std::all_of(batch.begin(), batch.end(), [&](std::int64_t record) { return known[record] != nullptr; })) {
      return false;
    }
    for (const std::int64_t record : batch) {
      result.predictions[record].target = known[record]->text;
      if (options.part == 0) {
        result.answered.push_back(record);
        result.tokens += known[record]->tokens;
        result.unfinished += known[record]->finished ? 0 : 1;
      }
    }
    return true;
  });
}

std::string stream_key(const data::Record& record) {
  io::Sha256 hash;
  const auto add = [&](const std::string& text) {
    const std::uint64_t size = text.size();
    hash.update(&size, sizeof size).update(text);
  };
  for (const std::string* part : {&record.sample_id, &record.task, &record.input}) {
    add(*part);
  }
  for (const auto& [question, answer] : record.history) {
    add(question);
    add(answer);
  }
  if (!record.system.empty()) {
    add(record.system);
  }
  return hash.hex();
}

}  // namespace

data::EncodeOptions prompt_encoding(const EvaluateOptions& options, const model::CausalLM& model) {
  data::EncodeOptions encode = options.encode;
  if (encode.max_source_length == 0) {
    encode.max_source_length = data::longest_prompt(model.shape().max_sequence_length, options.max_target_length);
  }
  return encode;
}

void warn_of_cut_prompts(const data::CountedRecords& cut, std::size_t count, const data::EncodeOptions& encode) {
  if (cut.count > 0) {
    log::warning(detail::concat("of ", count, " prompts, those longer than ", encode.max_source_length,
                                " tokens lose their ", data::cut_name(encode.cut), ": ", cut.text()));
  }
}

std::vector<std::uint64_t> random_streams(const std::vector<data::Record>& records) {
  std::unordered_map<std::string, std::uint64_t> seen;
  std::vector<std::uint64_t> streams;
  streams.reserve(records.size());
  for (const data::Record& record : records) {
    const std::string key = stream_key(record);
    streams.push_back(std::stoull(key.substr(0, 16), nullptr, 16) + io::kSplitMixStep * seen[key]++);
  }
  return streams;
}

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

  Evaluation result;
  result.predictions = records;
  const data::EncodeOptions encode = prompt_encoding(options, model);
  result.longest_prompt = encode.max_source_length;
  std::vector<model::Prompt> prompts;
  prompts.reserve(records.size());
  for (const data::Record& record : records) {
    std::int64_t removed = 0;
    prompts.push_back(data::encode_prompt(options.ask ? options.ask(record) : record, tokenizer, encode, &removed));
    if (removed > 0) {
      result.cut_prompts.add(data::record_name(record));
    }
    MOELORA_CHECK(prompts.back().length() < model.shape().max_sequence_length, "record ", data::record_name(record),
                  ": its prompt has ", prompts.back().length(), " tokens, but the model takes ",
                  model.shape().max_sequence_length, " with the answer; lower max_source_length, or leave it out");
  }
  if (options.part == 0) {
    warn_of_cut_prompts(result.cut_prompts, records.size(), encode);
  }

  EvaluateProgress progress;
  std::vector<RecordBatch> batches = batches_by_length(prompts, options);
  take_known_answers(options, result, batches);
  const std::vector<std::uint64_t> streams =
      options.generation.sample ? random_streams(records) : std::vector<std::uint64_t>(records.size());
  const std::vector<std::int64_t> part = batches_of_part(batches, prompts, options);
  for (const std::int64_t index : part) {
    progress.total += static_cast<std::int64_t>(batches[index].size());
  }
  for (const std::int64_t index : part) {
    const RecordBatch& batch = batches[index];
    std::vector<model::Prompt> batch_prompts;
    model::GenerationOptions generation = options.generation;
    generation.streams.clear();
    for (const std::int64_t record : batch) {
      batch_prompts.push_back(prompts[record]);
      generation.streams.push_back(streams[record]);
    }
    generation.max_new_tokens = options.max_target_length;
    generation.end_ids = tokenizer.end_ids();
    const auto answers =
        model::generate(model, batch_prompts, generation, context ? context(batch) : nn::ContextMaker{});
    std::vector<Answer> made;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      made.push_back({batch[i], text::valid_utf8(tokenizer.clean_response(tokenizer.decode(answers[i].ids))),
                      static_cast<std::int64_t>(answers[i].ids.size()) + (answers[i].finished ? 1 : 0),
                      answers[i].finished});
      result.answered.push_back(batch[i]);
      result.predictions[batch[i]].target = made.back().text;
      result.tokens += made.back().tokens;
      result.unfinished += made.back().finished ? 0 : 1;
      progress.tokens += made.back().tokens;
    }
    if (options.on_answers) options.on_answers(made);
    progress.done += static_cast<std::int64_t>(batch.size());
    if (on_progress) on_progress(progress);
  }
  std::sort(result.answered.begin(), result.answered.end());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace moelora::eval
