#pragma once
// Tokenizers of Hugging Face folders, read from tokenizer.json: byte-level BPE and SentencePiece-like BPE with byte
// fallback, with added tokens, normalizers, pre-tokenizers, post-processors and decoders. Any family may use it.

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moelora/model/tokenizer.h"

namespace moelora::model {

class HfTokenizer : public Tokenizer {
 public:
  static constexpr const char* kFile = "tokenizer.json";

  /// A folder with tokenizer.json or the path of one. Beside it, where present: tokenizer_config.json,
  /// special_tokens_map.json, generation_config.json and config.json (which tokens begin, end and pad a text).
  /// `settings` overrides keys of tokenizer_config.json (setting_names()); its chat_template also goes before
  /// chat_template.jinja, and null is the explicit choice of none: texts are encoded as they are. Error naming what of
  /// tokenizer.json or of the template is not supported.
  explicit HfTokenizer(const std::filesystem::path& path);
  HfTokenizer(const std::filesystem::path& path, const nlohmann::ordered_json& settings);
  ~HfTokenizer() override;

  /// Whether a folder holds a tokenizer.json, or `path` is a .json file.
  static bool is_at(const std::filesystem::path& path);
  /// Keys that `settings` may have.
  static std::vector<std::string> setting_names();

  /// Special tokens that are written in the text become those tokens, as Hugging Face reads them.
  TokenIds encode(std::string_view text) const override;
  /// Special tokens leave no text, nor do ids without a piece: heads of models have more rows than tokenizers pieces.
  /// Error: a negative id.
  std::string decode(const TokenIds& ids) const override;
  std::string decode_all(const TokenIds& ids) const override;
  TokenIds encode_plain(std::string_view text) const override;
  std::string piece(std::int64_t id) const override;
  /// With the special tokens that the post-processor puts around a text (often one that begins it, or none).
  Prompt build_prompt(const TokenIds& source) const override;
  /// The same, then target and the end token.
  TrainingPair build_pair(const TokenIds& source, const TokenIds& target) const override;
  bool has_chat_template() const override;
  std::string prompt_form() const override;  ///< "none", or the SHA-256 of the template.
  Prompt chat_prompt(const Conversation& conversation) const override;
  TrainingPair chat_pair(const Conversation& conversation, std::string_view answer) const override;
  /// The ids of a conversation as the template writes it, with the head of an answer behind it or without.
  /// `text`, if given, becomes the text itself.
  TokenIds chat_ids(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                    std::string* text = nullptr) const override;
  std::int64_t vocab_size() const override;  ///< Pieces, added tokens included.
  std::int64_t pad_id() const override;      ///< The end token's, where the files name none.
  std::int64_t eos_id() const override;
  /// eos_token, all of eos_token_id of generation_config.json (or config.json), and what the template writes behind an
  /// answer.
  TokenIds end_ids() const override;
  std::int64_t bos_id() const;  ///< -1: none
  /// Without blanks around it, and without what the template writes in front of every answer.
  std::string clean_response(std::string text) const override;
  std::string fingerprint() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moelora::model
