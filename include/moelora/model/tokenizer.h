#pragma once
// What data, evaluation and generation know of a tokenizer.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/model/prompt.h"

namespace moelora::model {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual TokenIds encode(std::string_view text) const = 0;                  ///< Without special tokens. UTF-8 in.
  virtual std::string decode(const TokenIds& ids) const = 0;                 ///< Special tokens leave no text.
  virtual std::string piece(std::int64_t id) const { return decode({id}); }  ///< The vocabulary's entry.
  /// A prompt ready for generation: source, with the special tokens that the family puts around it to open an answer.
  virtual Prompt build_prompt(const TokenIds& source) const = 0;
  /// A training sequence: source and target with all special tokens, the end of sequence included.
  virtual TrainingPair build_pair(const TokenIds& source, const TokenIds& target) const = 0;
  /// Tokens that build_prompt adds to a source: what a limit on the prompt's length leaves is the source's.
  std::int64_t special_tokens_per_prompt() const { return build_prompt({}).length(); }

  /// The text that asks `question` after the earlier rounds (question, answer) of a conversation, in the form that the
  /// family was trained on. Error, unless a family overrides it: rounds that are joined in a made-up form would be
  /// answered, but badly, and nothing would say so.
  virtual std::string conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                        std::string_view question) const;

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int64_t pad_id() const = 0;
  virtual std::int64_t eos_id() const = 0;
  /// Clean-up of a generated answer before a person or a scorer reads it.
  virtual std::string clean_response(std::string text) const = 0;
  /// SHA-256 of the vocabulary: written into adapters, compared on loading.
  virtual std::string fingerprint() const = 0;
};

}  // namespace moelora::model
