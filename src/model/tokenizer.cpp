#include "moelora/model/tokenizer.h"

#include "moelora/io/error.h"

namespace moelora::model {

std::string Tokenizer::conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                         std::string_view) const {
  throw Error(detail::concat("expected a model with a form for conversations, found one without, asked to write ",
                             history.size(),
                             " earlier rounds; leave the history out of the records or write it into their inputs"));
}

Prompt Tokenizer::chat_prompt(const Conversation&) const {
  throw Error("expected a tokenizer with a chat template, found one without; its prompts are made of token ids");
}

TrainingPair Tokenizer::chat_pair(const Conversation&, std::string_view) const {
  throw Error("expected a tokenizer with a chat template, found one without; its pairs are made of token ids");
}

TokenIds Tokenizer::chat_ids(const std::vector<ChatMessage>&, bool, std::string*) const {
  throw Error("expected a tokenizer with a chat template, found one without");
}

Prompt Tokenizer::prompt_of(std::string_view question) const {
  return has_chat_template() ? chat_prompt({{}, {}, std::string(question)}) : build_prompt(encode_plain(question));
}

}  // namespace moelora::model
