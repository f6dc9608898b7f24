#pragma once
// From a record to token ids, cut as the reference cuts.

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/model/tokenizer.h"

namespace moelora::data {

struct EncodeOptions {
  std::int64_t max_source_length = 1024;  ///< Source tokens, opening tokens included.
  std::int64_t max_target_length = 196;   ///< Target tokens, end of sequence included.
  std::string source_prefix;              ///< Put in front of every input.
  /// Training inputs are written as a round of a conversation even where a record has no earlier ones (MOELoRA-peft
  /// with a history column). A record with a history is always written so.
  bool with_history = false;
};

struct Example {
  std::int64_t task = 0;     ///< index in the run's task names
  model::TokenIds ids;       ///< whole sequence: source, opening, target, end of sequence
  std::int64_t context = 0;  ///< context rows; ids[context] is the first label
  bool cut = false;          ///< source or target was shortened
  std::string id;            ///< sample_id of the record, or "line N": how messages name it

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
  /// Rows that predict a label: context-1 … length-2.
  std::int64_t label_count() const { return length() - context; }
};

/// The text that a record asks with, before any prefix: its input, as a round of a conversation after its earlier ones
/// if it has a history.
std::string source_text(const Record& record);

/// Training form. The source is cut to max_source_length - 1 tokens, the target to max_target_length - 2, as
/// MOELoRA-peft's chatglm1_train does; the end of sequence is never cut off.
Example encode_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                    const EncodeOptions& options);

/// Generation form: the source cut so that source and opening tokens fit max_source_length (chatglm1_eval).
model::TokenIds encode_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options);

}  // namespace moelora::data
