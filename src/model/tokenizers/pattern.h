#pragma once
// "pattern" of a Split or Replace: {"String": text} or {"Regex": expression}.

#include "model/tokenizers/expression.h"
#include "model/tokenizers/json_part.h"

namespace moelora::model::tokenizers {

Expression read_pattern(JsonPart& part);

/// Calls `piece(span, is_match)` for every match and every stretch between matches that is not empty.
template <typename Piece>
void cut_at_matches(const Expression& expression, std::string_view text, std::size_t begin, std::size_t end,
                    const Piece& piece) {
  const std::string_view part = text.substr(begin, end - begin);
  std::size_t done = 0, from = 0;
  for (Span match; from <= part.size() && expression.find(part, from, match);) {
    if (match.begin > done) {
      piece(Span{begin + done, begin + match.begin}, false);
    }
    if (!match.empty()) {
      piece(Span{begin + match.begin, begin + match.end}, true);
    }
    done = match.end;
    from = match.end;
    if (match.empty()) {  // on to the next character
      do {
        ++from;
      } while (from < part.size() && (static_cast<unsigned char>(part[from]) & 0xC0) == 0x80);
    }
  }
  if (done < part.size()) {
    piece(Span{begin + done, end}, false);
  }
}

}  // namespace moelora::model::tokenizers
