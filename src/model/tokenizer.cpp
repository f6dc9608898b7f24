#include "moelora/model/tokenizer.h"

#include "moelora/io/error.h"

namespace moelora::model {

std::string Tokenizer::conversation_text(const std::vector<std::pair<std::string, std::string>>& history,
                                         std::string_view) const {
  throw Error(detail::concat("expected a model with a form for conversations, found one without, asked to write ",
                             history.size(),
                             " earlier rounds; leave the history out of the records or write it into their inputs"));
}

}  // namespace moelora::model
