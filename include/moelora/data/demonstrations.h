#pragma once
// In-context learning (Brown et al. 2020, arXiv 2005.14165): solved examples of the same task in front of the question.
//
//   task prompt (if any), then for each demonstration: input target ⏎⏎, then the question's input
//
// Demonstrations come from a pool of training records. Similarity is the cosine of tf-idf vectors over bigrams of
// characters in the input, df counted within the task: tf is the count, idf = log((n + 1) / df) of n records, so that a
// template that all records share hardly counts.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/data/task_prompts.h"
#include "moelora/model/tokenizer.h"

namespace moelora::data {

struct DemonstrationOptions {
  enum class Choice {
    random,   ///< Drawn by a hash of seed, question and candidate: no other record, nor any order, matters.
    similar,  ///< The most similar ones; of equal ones, those that stand first in the pool.
  };
  std::int64_t count = 2;  ///< Demonstrations per question, fewer if the pool has no more.
  Choice choice = Choice::random;
  std::uint64_t seed = 0;                 ///< Of random choices.
  std::int64_t max_source_length = 1024;  ///< Tokens of the whole prompt, special tokens included (encode_prompt).
  std::string source_prefix;              ///< What encode_prompt will put in front: counted, not written.
  TaskPrompts task_prompts;               ///< The task's text stands once, in front of the first demonstration.
};

class DemonstrationPool {
 public:
  /// Of records with the same task, input and history the first one counts. Error if there are none.
  explicit DemonstrationPool(std::vector<Record> records);

  /// The record with task prompt and demonstrations in front of its input; all other fields stay as they are.
  ///
  /// A demonstration is never a record with the question's own input, and the choice does not look at the question's
  /// target. The first choice stands nearest to the question. If question and demonstrations do not fit into
  /// max_source_length, the last choices are left out, all of them if need be; `left_out`, if given, is increased by
  /// their number. A demonstration with earlier rounds is written with them; a question's own earlier rounds stay in
  /// `history`, so that its demonstrations are part of its last round.
  ///
  /// Error: the pool has no record of this task (it names the tasks that it has), count < 0, a task without prompt.
  Record with_demonstrations(const Record& record, const model::Tokenizer& tokenizer,
                             const DemonstrationOptions& options, std::int64_t* left_out = nullptr) const;

 private:
  struct TaskPool;
  std::map<std::string, std::shared_ptr<const TaskPool>> tasks_;
};

}  // namespace moelora::data
