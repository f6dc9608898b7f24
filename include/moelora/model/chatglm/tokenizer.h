#pragma once
// ChatGLM-6B's tokenizer: SentencePiece (ice_text.model) plus the newline, tab and blank tokens, image-token offset and
// special tokens of the distribution.

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "moelora/model/tokenizer.h"

namespace moelora::model {

struct ChatGlmTokenizerOptions {
  bool do_lower_case = false;
  bool remove_space = false;
  std::int64_t num_image_tokens =
      20000;                 ///< All text ids shift by this; `<image_k>` is id k. 0 in the 130528 revision.
  bool linebreak = true;     ///< Newlines have a token of their own.
  bool whitespace = true;    ///< So have tabs and runs of blanks.
  bool dummy_prefix = true;  ///< A blank is put in front of the text.
};

class ChatGlmTokenizer : public Tokenizer {
 public:
  /// A model folder (ice_text.model, tokenizer_config.json if present) or the path of an ice_text.model.
  explicit ChatGlmTokenizer(const std::filesystem::path& path);
  /// The same, with keys of tokenizer_config.json overridden; beside those also the last three options above.
  ChatGlmTokenizer(const std::filesystem::path& path, const nlohmann::ordered_json& settings);
  ChatGlmTokenizer(const std::filesystem::path& model_file, const ChatGlmTokenizerOptions& options);
  ~ChatGlmTokenizer() override;

  TokenIds encode(std::string_view text) const override;
  std::string decode(const TokenIds& ids) const override;
  std::string piece(std::int64_t id) const override;
  /// source [gMASK] `<sop>`; the rows up to the [gMASK] see each other in both directions.
  Prompt build_prompt(const TokenIds& source) const override;
  /// source [gMASK] `<sop>` target `<eop>`; the first label is the `<sop>`.
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
