#pragma once
// The 256 characters with which byte-level vocabularies write bytes (GPT-2's bytes_to_unicode): printable Latin-1
// characters stand for themselves, the others for characters from U+0100 on.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moelora::model::tokenizers {

std::uint32_t character_of_byte(unsigned char byte);
/// The bytes that a piece stands for; nothing if it has a character outside of the alphabet.
std::optional<std::string> bytes_of_piece(std::string_view piece);

}  // namespace moelora::model::tokenizers
