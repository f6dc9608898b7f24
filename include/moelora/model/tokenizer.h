#pragma once
// What data, evaluation and generation know of a tokenizer.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/model/chat_template.h"
#include "moelora/model/prompt.h"

namespace moelora::model {

/// What an answer is wanted to: a question, and the rounds (question, answer) before it.
struct Conversation {
  std::string system;  ///< Instructions that stand before all; empty: what the template has of its own.
  std::vector<std::pair<std::string, std::string>> history;
  std::string question;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual TokenIds encode(std::string_view text) const = 0;   ///< Without special tokens. UTF-8 in.
  virtual std::string decode(const TokenIds& ids) const = 0;  ///< Special tokens leave no text.
  /// The same with special tokens written out, where the family can.
  virtual std::string decode_all(const TokenIds& ids) const { return decode(ids); }
  /// What a user wrote: special tokens in it are text like any other, where the family can tell them apart.
  virtual TokenIds encode_plain(std::string_view text) const { return encode(text); }
  virtual std::string piece(std::int64_t id) const { return decode({id}); }  ///< The vocabulary's entry.
  /// A prompt ready for generation: source, with the special tokens that the family puts around it to open an answer.
  virtual Prompt build_prompt(const TokenIds& source) const = 0;
  /// A training sequence: source and target with all special tokens, the end of sequence included.
  virtual TrainingPair build_pair(const TokenIds& source, const TokenIds& target) const = 0;
  /// Tokens that build_prompt adds to a source: what a limit on the prompt's length leaves is the source's.
  std::int64_t special_tokens_per_prompt() const { return build_prompt({}).length(); }

  /// Whether a chat template writes conversations as one text, which is encoded as a whole: prompts and pairs are then
  /// made by chat_prompt and chat_pair, otherwise of ids by build_prompt and build_pair. Error: a template is wanted,
  /// and there is none.
  virtual bool has_chat_template() const { return false; }
  /// What tells prompts of one form from those of another made with the same vocabulary; empty: there is one form.
  virtual std::string prompt_form() const { return {}; }
  /// A prompt ready for generation. Special tokens in the conversation's own texts are text. Error: no chat template,
  /// or it refuses the conversation.
  virtual Prompt chat_prompt(const Conversation& conversation) const;
  /// The same and the answer as the template writes it; labels are the answer and the token that ends it, the last one.
  virtual TrainingPair chat_pair(const Conversation& conversation, std::string_view answer) const;
  /// The ids of messages as the template writes them, with the head of an answer behind them or without; `text`, if
  /// given, becomes that text. For comparing templates. Error: no chat template.
  virtual TokenIds chat_ids(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                            std::string* text = nullptr) const;
  /// A prompt that asks this, in whichever of the two ways.
  Prompt prompt_of(std::string_view question) const;

  /// The text that asks `question` after the earlier rounds (question, answer) of a conversation, in the form that the
  /// family was trained on. Error, unless a family overrides it: rounds that are joined in a made-up form would be
  /// answered, but badly, and nothing would say so.
  virtual std::string conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                        std::string_view question) const;

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int64_t pad_id() const = 0;
  virtual std::int64_t eos_id() const = 0;
  /// All tokens that end an answer.
  virtual TokenIds end_ids() const { return {eos_id()}; }
  /// Clean-up of a generated answer before a person or a scorer reads it.
  virtual std::string clean_response(std::string text) const = 0;
  /// SHA-256 of the vocabulary: written into adapters, compared on loading.
  virtual std::string fingerprint() const = 0;
};

}  // namespace moelora::model
