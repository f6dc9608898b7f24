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
  /// `settings` overrides keys of tokenizer_config.json (setting_names()). Error naming each part of the file that is
  /// not supported.
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
  /// The same, special tokens written out.
  std::string decode_all(const TokenIds& ids) const;
  std::string piece(std::int64_t id) const override;
  /// With the special tokens that the post-processor puts around a text (often one that begins it, or none).
  Prompt build_prompt(const TokenIds& source) const override;
  /// The same, then target and the end token.
  TrainingPair build_pair(const TokenIds& source, const TokenIds& target) const override;
  std::int64_t vocab_size() const override;  ///< Pieces, added tokens included.
  std::int64_t pad_id() const override;      ///< The end token's, where the files name none.
  std::int64_t eos_id() const override;
  std::int64_t bos_id() const;  ///< -1: none
  std::string clean_response(std::string text) const override;
  std::string fingerprint() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moelora::model
