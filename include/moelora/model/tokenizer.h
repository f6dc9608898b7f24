#pragma once
// What data, evaluation and generation know of a tokenizer.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::model {

using TokenIds = std::vector<std::int64_t>;

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual TokenIds encode(std::string_view text) const = 0;                  ///< Without special tokens. UTF-8 in.
  virtual std::string decode(const TokenIds& ids) const = 0;                 ///< Special tokens leave no text.
  virtual std::string piece(std::int64_t id) const { return decode({id}); }  ///< The vocabulary's entry.
  /// A prompt ready for generation: source, then the tokens that open the answer (for a prefix-LM: [gMASK] <sop>).
  virtual TokenIds build_prompt(const TokenIds& source) const = 0;
  /// A training sequence: build_prompt's opening, target, end of sequence.
  virtual TokenIds build_pair(const TokenIds& source, const TokenIds& target) const = 0;
  /// Number of context rows of a sequence whose source has `source_length` tokens (with a [gMASK]: + 1). The
  /// first label is the token at this index.
  virtual std::int64_t context_length(std::int64_t source_length) const = 0;
  /// Tokens that build_prompt / build_pair add around the source (2) and the target (1).
  virtual std::int64_t prompt_overhead() const = 0;

  virtual std::int64_t vocab_size() const = 0;
  virtual std::int64_t pad_id() const = 0;
  virtual std::int64_t eos_id() const = 0;
  /// Clean-up of a generated answer before a person or a scorer reads it.
  virtual std::string clean_response(std::string text) const = 0;
  /// SHA-256 of the vocabulary: written into adapters, compared on loading.
  virtual std::string fingerprint() const = 0;
};

}  // namespace moelora::model
