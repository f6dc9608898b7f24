#pragma once
// Answers for many records, with progress on stderr.

#include <filesystem>
#include <memory>
#include <vector>

#include "cli/session.h"
#include "moelora/data/demonstrations.h"
#include "moelora/eval/evaluate.h"
#include "moelora/train/process_group.h"
#include "moelora/train/run_data.h"

namespace moelora::cli {

using data::write_records;
using train::read_and_report;

/// --batch-size, --max-source-length, --cut and --max-new-tokens.
void add_answer_options(CLI::App& verb, eval::EvaluateOptions& options);
/// --sample, --temperature, --top-k, --top-p and --seed; warns of those that do nothing without --sample.
void add_sampling_options(CLI::App& verb, eval::EvaluateOptions& options);

/// What stands in front of a record's input.
struct PromptOptions {
  std::filesystem::path task_prompts;
  std::filesystem::path demonstrations_from;
  data::DemonstrationOptions demonstrations;  ///< Used if there are records to take them from.
  data::FieldMap fields;                      ///< Of the records to take them from.
};

void add_fields_option(CLI::App& verb, data::FieldMap& fields);  ///< --fields

void add_task_prompt_option(CLI::App& verb, PromptOptions& options);     ///< --task-prompts
void add_demonstration_options(CLI::App& verb, PromptOptions& options);  ///< --demonstrations and what goes with it

/// How records are asked, from the files that the options name (both may be absent).
class Prompting {
 public:
  /// Reads the files. Takes the random seed from `evaluate`.
  Prompting(const PromptOptions& options, const eval::EvaluateOptions& evaluate);
  /// Makes `evaluate` ask so, with the prefix that the session's adapter was trained with; both this and the session
  /// are used as long as it does. A warning where the adapter was trained on prompts of another form.
  void bind(const Session& session, eval::EvaluateOptions& evaluate);
  std::int64_t left_out() const { return left_out_; }  ///< demonstrations that did not fit, of all records asked

 private:
  data::Record ask(const data::Record& record, const model::Tokenizer& tokenizer);

  data::DemonstrationOptions options_;
  std::filesystem::path task_prompts_;
  std::unique_ptr<const data::DemonstrationPool> pool_;
  std::int64_t left_out_ = 0;
};

/// eval::evaluate with the session's adapter, each record answered as its own task. Several ranks share the batches of
/// one process, and all get all answers: the same as one process's.
eval::Evaluation predict(const Session& session, const std::vector<data::Record>& records,
                         const eval::EvaluateOptions& options, train::ProcessGroup* ranks = nullptr);

}  // namespace moelora::cli
