#pragma once
// Evaluation by generation: a model answers every record.

#include <cstdint>
#include <functional>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/model/generation.h"

namespace moelora::eval {

/// The form in which a record is asked: with a task prompt, with demonstrations.
using Asking = std::function<data::Record(const data::Record&)>;

struct EvaluateOptions {
  data::EncodeOptions encode;  ///< max_source_length, source_prefix
  Asking ask;                  ///< Makes the prompt's record of each record; predictions keep the original one.
  std::int64_t max_target_length = 196;  ///< New tokens per answer, the end of sequence included.
  std::int64_t batch_size = 16;          ///< Prompts that are generated together, > 0.
  /// Most tokens of a batch's prompts and answers together: bounds the KV cache. 0: no bound; a longer prompt goes
  /// alone.
  std::int64_t token_budget = 0;
  /// Greedy by default. max_new_tokens comes from max_target_length, eos_id from the tokenizer. When sampling, an
  /// answer depends on the seed and on the batches, hence on batch_size and token_budget.
  model::GenerationOptions generation;
  /// Answer only the batches of one of several processes: the batches stay those of one process, and are divided by
  /// their lengths.
  std::int64_t part = 0;
  std::int64_t parts = 1;
};

/// Makes the contexts of a batch from the indices of its records, in the batch's order: the adapter bound to the tasks
/// of these records. Empty function: the model without an adapter.
using BatchContext = std::function<model::ContextMaker(const std::vector<std::int64_t>& record_indices)>;

struct EvaluateProgress {
  std::int64_t done = 0;    ///< records answered
  std::int64_t total = 0;   ///< of this part
  std::int64_t tokens = 0;  ///< tokens generated
};
using ProgressCallback = std::function<void(const EvaluateProgress&)>;  ///< Called after each batch.

struct Evaluation {
  std::vector<data::Record> predictions;  ///< The records in their order, `target` replaced by the model's answer.
  std::vector<std::int64_t> answered;     ///< Indices of the records of this part, ascending; the others keep theirs.
  std::int64_t tokens = 0;                ///< generated
  std::int64_t unfinished = 0;            ///< answers cut at max_target_length
  double seconds = 0;
};

/// Prompts are grouped by length (longest first), so that a batch wastes little. No gradients are recorded; the model
/// is in evaluation mode meanwhile and has its mode back afterwards. Error: no records, batch_size < 1, a prompt that
/// leaves no room below the model's maximum length.
Evaluation evaluate(model::CausalLM& model, const model::Tokenizer& tokenizer, const std::vector<data::Record>& records,
                    const EvaluateOptions& options = {}, const BatchContext& context = {},
                    const ProgressCallback& on_progress = {});

}  // namespace moelora::eval
