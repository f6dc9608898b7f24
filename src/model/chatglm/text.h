#pragma once
// Text handling of ChatGLM-6B's tokenizer outside SentencePiece, by Unicode code points. Bytes that are not UTF-8 pass
// through unchanged; SentencePiece replaces them.

#include <string>
#include <string_view>

namespace moelora::model::chatglm_text {

std::string_view strip_left(std::string_view text);   ///< Without leading Unicode white space.
std::string_view strip_right(std::string_view text);  ///< Without trailing Unicode white space.
std::string_view strip(std::string_view text);
/// Words joined by one blank each; no white space at the ends.
std::string squeeze_spaces(std::string_view text);
/// Each code point's lower-case mapping, without context rules (no final sigma) and without locale.
std::string lower(std::string_view text);
/// `from` → `to`, leftmost first, without overlap. `from` is not empty.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);

/// A line break becomes "<n>".
std::string encode_line_breaks(std::string_view text);
/// A tab becomes "<|tab|>", a run of k >= 2 blanks "<|blank_k|>" (runs above 80 in pieces of 80).
std::string encode_blanks(std::string_view text);
/// Both back to text. Also where the text itself spelled the markers, as in the reference.
std::string decode_markers(std::string_view text);

/// A generated answer as the reference's `process_response` leaves it: stripped, the training-time placeholder filled
/// in, and each ASCII `, ! : ; ?` beside a Chinese character in its full-width form.
std::string clean_response(std::string_view text);

}  // namespace moelora::model::chatglm_text
