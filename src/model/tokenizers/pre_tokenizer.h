#pragma once
// The part "pre_tokenizer" of tokenizer.json: how a normalised text is cut into words.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizers/expression.h"
#include "model/tokenizers/json_part.h"

namespace moelora::model::tokenizers {

/// A text, and its words as spans of it, none of them empty.
struct Words {
  std::string text;
  std::vector<Span> spans;
  bool at_begin = true;  ///< The text begins where the whole input does, not behind an added token.

  std::string_view word(const Span& span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(Words& words) const = 0;
  virtual bool makes_bytes() const { return false; }  ///< Whether the model is given bytes in GPT-2's alphabet.
};

/// Split, ByteLevel, Digits, Metaspace and Sequence. nullptr: null. Error: another one, or a part after ByteLevel.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Json& json, const std::string& where, int depth = 0);

}  // namespace moelora::model::tokenizers
