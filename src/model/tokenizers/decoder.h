#pragma once
// The part "decoder" of tokenizer.json: how pieces become a text again.

#include <memory>
#include <string>
#include <vector>

#include "model/tokenizers/json_part.h"

namespace moelora::model::tokenizers {

class Decoder {
 public:
  virtual ~Decoder() = default;
  virtual void apply(std::vector<std::string>& pieces) const = 0;  ///< What is left, one behind the other, is the text.
};

/// ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace and Sequence; null joins pieces with blanks. Error: another
/// one.
std::unique_ptr<Decoder> read_decoder(const Json& json, const std::string& where, int depth = 0);

}  // namespace moelora::model::tokenizers
