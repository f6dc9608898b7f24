#pragma once
// ChatGLM-6B's tokenizer: SentencePiece (ice_text.model) plus the newline, tab and blank tokens, image-token offset and
// special tokens of the distribution.

#include <filesystem>
#include <memory>

#include "moelora/model/tokenizer.h"

namespace moelora::model {

struct ChatGlmTokenizerOptions {
  bool do_lower_case = false;
  bool remove_space = false;
  std::int64_t num_image_tokens = 20000;  ///< All text ids shift by this; `<image_k>` is id k. 0 in the 130528 revision.
};

class ChatGlmTokenizer : public Tokenizer {
 public:
  /// A model folder (ice_text.model, tokenizer_config.json if present) or the path of an ice_text.model.
  explicit ChatGlmTokenizer(const std::filesystem::path& path);
  ChatGlmTokenizer(const std::filesystem::path& model_file, const ChatGlmTokenizerOptions& options);
  ~ChatGlmTokenizer() override;

  TokenIds encode(std::string_view text) const override;
  /// As the reference's SPTokenizer: without linebreak / whitespace handling, or without the dummy prefix.
  TokenIds encode(std::string_view text, bool linebreak, bool whitespaces, bool dummy_prefix) const;
  std::string decode(const TokenIds& ids) const override;
  std::string piece(std::int64_t id) const;
  /// source [gMASK] <sop>; the rows up to the [gMASK] see each other in both directions.
  Prompt build_prompt(const TokenIds& source) const override;
  /// source [gMASK] <sop> target <eop>; the first label is the <sop>.
  TrainingPair build_pair(const TokenIds& source, const TokenIds& target) const override;
  /// "[Round 0]\n问：question\n答：answer\n" for each earlier round, then the next one without an answer.
  std::string conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                std::string_view question) const override;
  std::int64_t vocab_size() const override;
  std::int64_t pad_id() const override;
  std::int64_t eos_id() const override;  ///< `<eop>`
  std::int64_t bos_id() const;           ///< `<sop>`
  std::int64_t gmask_id() const;
  std::string clean_response(std::string text) const override;
  std::string fingerprint() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moelora::model
