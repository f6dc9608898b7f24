#pragma once
// Byte-pair encoding of one word: its characters (or bytes) become pieces, then the neighbours whose merge was learned
// earliest are joined, the leftmost first, until none is left.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizers/json_part.h"
#include "model/tokenizers/word_cache.h"
#include "moelora/model/prompt.h"

namespace moelora::model::tokenizers {

class Bpe {
 public:
  /// The part "model" of tokenizer.json. `byte_level`: words are bytes, which the vocabulary writes in the alphabet of
  /// byte_alphabet.h; otherwise they are UTF-8. Error: another kind of model, or a setting that is not supported.
  Bpe(JsonPart model, bool byte_level);

  /// Appends the ids of a word. May be called by several threads.
  void encode(std::string_view word, TokenIds& ids) const;
  /// The vocabulary as it is written, by id; ids without a piece are empty.
  const std::vector<std::string>& pieces() const { return pieces_; }
  std::int64_t id_of(const std::string& piece) const;  ///< -1: none
  /// Everything that ids depend on, for a fingerprint.
  std::string description() const;

 private:
  struct Merge {
    std::int32_t rank = -1;  ///< -1: an empty place of the table
    std::int32_t piece = -1;
    std::uint64_t pair = 0;
  };
  void read_vocabulary(JsonPart& model);
  void read_merges(JsonPart& model);
  void add_merge(std::int32_t left, std::int32_t right, std::int32_t piece, std::int32_t rank);
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  void encode_uncached(std::string_view word, TokenIds& ids) const;
  void first_pieces(std::string_view word, std::vector<std::int32_t>& pieces) const;
  void merge_short(std::vector<std::int32_t>& pieces) const;
  void merge_long(std::vector<std::int32_t>& pieces) const;

  bool byte_level_;
  bool byte_fallback_ = false, fuse_unknown_ = false, ignore_merges_ = false;
  std::int32_t unknown_ = -1;
  std::vector<std::string> pieces_;
  std::unordered_map<std::string, std::int32_t> id_of_piece_;  ///< as written
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> id_of_text_;  ///< of words: bytes, or UTF-8
  std::array<std::int32_t, 256> id_of_byte_{};  ///< byte-level pieces, or <0x00> … <0xFF>; -1: none
  std::vector<Merge> merges_;                   ///< open addressing; a power of two
  std::vector<std::array<std::int32_t, 2>> merge_list_;
  mutable WordCache cache_;
};

}  // namespace moelora::model::tokenizers
