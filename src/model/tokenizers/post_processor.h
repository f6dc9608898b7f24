#pragma once
// The part "post_processor" of tokenizer.json: the special tokens around a text.

#include "model/tokenizers/json_part.h"
#include "moelora/model/prompt.h"

namespace moelora::model::tokenizers {

struct Surroundings {
  TokenIds before, after;
};

/// Of a single text, by TemplateProcessing, ByteLevel (which adds nothing) and Sequence. null: none. Error: another
/// one.
Surroundings read_post_processor(const Json& json, const std::string& where, int depth = 0);

}  // namespace moelora::model::tokenizers
