#pragma once
// UTF-8 texts in Unicode's normal forms, and in valid UTF-8 at all.

#include <cstddef>
#include <string>
#include <string_view>

namespace moelora::model::tokenizers {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

std::string normalized(std::string_view text, NormalForm form);  ///< `text` is valid UTF-8.
/// Each character by itself, as Rust's char::to_lowercase does: no rule looks at its neighbours.
std::string lowercased(std::string_view text);
/// Whatever is no UTF-8 becomes U+FFFD, one for each maximal part of a character (as Rust's and Python's decoders do).
std::string valid_utf8(std::string_view bytes);
bool is_valid_utf8(std::string_view bytes);

/// Of valid UTF-8: the bytes of the blanks (White_Space) that it begins and ends with, and whether it begins or ends
/// with a character of a word (a letter, mark, decimal digit or connector).
std::size_t blanks_at_begin(std::string_view text);
std::size_t blanks_at_end(std::string_view text);
bool begins_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

}  // namespace moelora::model::tokenizers
