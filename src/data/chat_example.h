#pragma once
// Records whose prompts a chat template writes: the whole text is encoded at once, so what is too long is cut out of
// the user's text, which is then written anew.

#include "moelora/data/example.h"

namespace moelora::data {

/// Where the first label stands, and the labels, of a record in the family's chat template. See encode_pair.
Example encode_chat_pair(const Record& record, std::int64_t task, const model::Tokenizer& tokenizer,
                         const EncodeOptions& options);
/// See encode_prompt.
model::Prompt encode_chat_prompt(const Record& record, const model::Tokenizer& tokenizer, const EncodeOptions& options,
                                 std::int64_t* removed);

/// Shortens `ids` to at most `limit` tokens; returns how many were removed.
std::int64_t cut_to(model::TokenIds& ids, std::int64_t limit, Cut cut);
/// Error naming the record: Cut::error, and more tokens than the limit.
void check_length(const Record& record, const char* what, std::int64_t length, std::int64_t limit, Cut cut);

}  // namespace moelora::data
