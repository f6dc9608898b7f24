#pragma once
// From a record to token ids, cut as the reference cuts. Where the tokenizer has a chat template, the whole text of a
// conversation is encoded at once: its earliest rounds are left out and the question is cut until it fits.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/model/tokenizer.h"

namespace moelora::data {

/// Which part of a source that is too long is removed.
enum class Cut {
  tail,    ///< Its last tokens, as the reference does: a question at the end is lost.
  head,    ///< Its first tokens, the prefix and any task prompt or demonstration included.
  middle,  ///< Tokens around its middle: of n that stay, the first (n + 1) / 2 and the last n / 2.
  error    ///< None: an Error names the record. A target that is too long is one too.
};
/// Error: an unknown name.
Cut cut_from_name(std::string_view name);
std::string_view cut_name(Cut cut);
const std::vector<std::string>& cut_names();  ///< In the order of the enumerators.

struct EncodeOptions {
  std::int64_t max_source_length = 1024;  ///< Source tokens, special tokens included.
  std::int64_t max_target_length = 196;   ///< Target tokens, end of sequence included.
  Cut cut = Cut::tail;                    ///< Of sources that are too long; targets lose their last tokens.
  std::string source_prefix;              ///< Put in front of every input.
  /// Training inputs are written as a round of a conversation even where a record has no earlier ones (MOELoRA-peft
  /// with a history column). A record with a history is always written so.
  bool with_history = false;
};

struct Example {
  std::int64_t task = 0;         ///< index in the run's task names
  model::TokenIds ids;           ///< whole sequence: source, target and the special tokens of the model's family
  std::int64_t label_begin = 0;  ///< index of the first label in ids; every token from there on is one
  bool source_cut = false;       ///< the source was shortened
  bool target_cut = false;       ///< the target was
  std::string id;                ///< record_name of the record
  double weight = 1.0;           ///< Record::weight

  std::int64_t length() const { return static_cast<std::int64_t>(ids.size()); }
  /// Of the rows that predict a label: label_begin - 1 … length - 2.
  std::int64_t label_count() const { return length() - label_begin; }
};

/// How messages name a record: its sample_id, or "line N", or "record N (line L)" where lines and records differ, with
/// its file where several were read.
std::string record_name(const Record& record);

/// Records with something in common, counted; the first few by name.
struct CountedRecords {
  std::int64_t count = 0;
  std::vector<std::string> names;  ///< of the first kMostNamed

  static constexpr std::size_t kMostNamed = 5;
  void add(const std::string& name);
  std::string text() const;  ///< "3 (a, b, c)", "9 (a, b, c, d, e, …)", "0"
};

/// The text that a record asks with, before any prefix: its input, in the tokenizer's form for conversations if it has
/// earlier rounds. Error: it has, and the tokenizer has no such form; it has a system text.
std::string source_text(const Record& record, const model::Tokenizer& tokenizer);

/// Training form. The source is cut so that it fits max_source_length with the special tokens before the first label,
/// the target so that it fits max_target_length with those from there on; these are never cut off (as MOELoRA-peft
/// cuts training rows). Error: Cut::error and a text too long.
Example encode_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                    const EncodeOptions& options);

/// Generation form: the source cut so that it fits max_source_length with all special tokens of a prompt (as the
/// reference's evaluation does). `removed`, if given, becomes the number of tokens cut out. Error: Cut::error and a
/// source too long.
model::Prompt encode_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options,
                            std::int64_t* removed = nullptr);

/// Tokens of the prompt that a record asks with, if nothing is cut.
std::int64_t prompt_length(const Record& record, const model::Tokenizer& tokenizer, const std::string& source_prefix);

/// The longest prompt of a model that takes `model_length` tokens in all: what an answer of `answer_length` leaves,
/// at least half of the model's length.
std::int64_t longest_prompt(std::int64_t model_length, std::int64_t answer_length);

}  // namespace moelora::data
