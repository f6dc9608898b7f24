#pragma once
// Evaluation by generation: a model answers every record.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moelora/data/answer.h"
#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/model/generation.h"

namespace moelora::eval {

/// The form in which a record is asked: with a task prompt, with demonstrations.
using Asking = std::function<data::Record(const data::Record&)>;

using data::Answer;
using AnswersCallback = std::function<void(const std::vector<Answer>&)>;  ///< Called with the answers of each batch.

struct EvaluateOptions {
  /// max_source_length, cut, source_prefix. A max_source_length of 0 is what an answer of max_target_length leaves of
  /// the model's length (data::longest_prompt). A prompt that is too long loses its middle: what is asked for stands at
  /// its beginning and at its end.
  data::EncodeOptions encode{.max_source_length = 0, .cut = data::Cut::middle, .source_prefix = {}};
  Asking ask;  ///< Makes the prompt's record of each record; predictions keep the original one.
  std::int64_t max_target_length = 196;  ///< New tokens per answer, the end of sequence included.
  std::int64_t batch_size = 16;          ///< Prompts that are generated together, > 0.
  /// Most tokens of a batch's prompts and answers together: bounds the KV cache. 0: no bound; a longer prompt goes
  /// alone.
  std::int64_t token_budget = 0;
  /// Greedy by default. max_new_tokens comes from max_target_length, end_ids from the tokenizer, streams from the
  /// records (random_streams): when sampling, an answer depends on the seed and on its record, not on its batch, the
  /// records' order or the parts.
  model::GenerationOptions generation;
  /// Answer only the batches of one of several processes: the batches stay those of one process, and are divided by
  /// their lengths.
  std::int64_t part = 0;
  std::int64_t parts = 1;
  /// Answers that are there already, of an earlier run with the same options: a batch all of whose records have one is
  /// not answered again. The others are the same batches as without them, so the answers are the same bytes.
  std::vector<Answer> known;
  AnswersCallback on_answers;
};

/// `options.encode` with the longest prompt that holds for `model` where it is 0.
data::EncodeOptions prompt_encoding(const EvaluateOptions& options, const model::CausalLM& model);

/// Logs which of `count` prompts lost a part, if any did.
void warn_of_cut_prompts(const data::CountedRecords& cut, std::size_t count, const data::EncodeOptions& encode);

/// The number of each record's random stream (GenerationOptions::streams): a hash of its sample_id, task, input and
/// history. Of records that agree in all of these, each has one of its own.
std::vector<std::uint64_t> random_streams(const std::vector<data::Record>& records);

/// Makes the contexts of a batch from the indices of its records, in the batch's order: the adapter bound to the tasks
/// of these records. Empty function: the model without an adapter.
using BatchContext = std::function<nn::ContextMaker(const std::vector<std::int64_t>& record_indices)>;

struct EvaluateProgress {
  std::int64_t done = 0;    ///< records answered
  std::int64_t total = 0;   ///< of this part, without those whose answers are known
  std::int64_t tokens = 0;  ///< tokens generated
};
using ProgressCallback = std::function<void(const EvaluateProgress&)>;  ///< Called after each batch.

struct Evaluation {
  std::vector<data::Record> predictions;  ///< The records in their order, `target` replaced by the model's answer.
  /// Indices of the records of this part, ascending; the others keep theirs. Known answers belong to part 0.
  std::vector<std::int64_t> answered;
  std::int64_t tokens = 0;           ///< generated
  std::int64_t unfinished = 0;       ///< answers cut at max_target_length
  data::CountedRecords cut_prompts;  ///< of all parts: prompts longer than max_source_length
  std::int64_t longest_prompt = 0;   ///< tokens that a prompt may have
  double seconds = 0;
};

/// Prompts are grouped by length (longest first), so that a batch wastes little. No gradients are recorded; the model
/// is in evaluation mode meanwhile and has its mode back afterwards. Part 0 logs a warning about prompts that were cut.
/// Answers are UTF-8: bytes that are none become U+FFFD. Error: no records, batch_size < 1, a prompt that leaves no
/// room below the model's maximum length, a known answer of no record.
Evaluation evaluate(model::CausalLM& model, const model::Tokenizer& tokenizer, const std::vector<data::Record>& records,
                    const EvaluateOptions& options = {}, const BatchContext& context = {},
                    const ProgressCallback& on_progress = {});

}  // namespace moelora::eval
