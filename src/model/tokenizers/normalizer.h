#pragma once
// The part "normalizer" of tokenizer.json: what happens to a text before it is cut into words.

#include <memory>
#include <string>

#include "model/tokenizers/json_part.h"

namespace moelora::model::tokenizers {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string apply(std::string text) const = 0;  ///< Valid UTF-8 in and out.
};

/// NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace, Prepend and Sequence. nullptr: null. Error: another one.
std::unique_ptr<Normalizer> read_normalizer(const Json& json, const std::string& where, int depth = 0);

}  // namespace moelora::model::tokenizers
