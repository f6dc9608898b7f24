#pragma once
// A tokenizer.json put together: text to ids and back.

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizers/added_tokens.h"
#include "model/tokenizers/bpe.h"
#include "model/tokenizers/decoder.h"
#include "model/tokenizers/normalizer.h"
#include "model/tokenizers/post_processor.h"
#include "model/tokenizers/pre_tokenizer.h"

namespace moelora::model::tokenizers {

class Pipeline {
 public:
  /// Error naming the file, and what of it is not supported.
  explicit Pipeline(const std::filesystem::path& file);

  /// `text` is valid UTF-8. Added tokens with `mark` in them are text, and the mark is nothing; empty: there is none.
  TokenIds encode(std::string_view text, std::string_view mark) const;
  std::string decode(const TokenIds& ids, bool with_special) const;
  std::int64_t id_of(const std::string& content) const;  ///< -1: none
  /// The written form of a token; empty: there is none with this id. Error: a negative id.
  const std::string& content_of(std::int64_t id) const;
  std::int64_t size() const { return size_; }  ///< Pieces and added tokens.
  const AddedTokens& added() const { return *added_; }
  /// A token, added or of the vocabulary, that is special from now on: not part of words, left out of decoded texts.
  void make_special(const std::string& content);
  const Surroundings& surroundings() const { return surroundings_; }
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void count_tokens(const std::string& where);
  void encode_between(std::string_view text, bool at_begin, bool find_added, TokenIds& ids) const;

  std::unique_ptr<Normalizer> normalizer_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::optional<Bpe> bpe_;
  std::optional<AddedTokens> added_;
  std::unique_ptr<Decoder> decoder_;
  Surroundings surroundings_;
  std::int64_t size_ = 0;
  std::string fingerprint_;
};

}  // namespace moelora::model::tokenizers
