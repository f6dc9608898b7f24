#include "model/tokenizers/byte_alphabet.h"

#include <array>

#include "moelora/io/utf8.h"

namespace moelora::model::tokenizers {
namespace {

constexpr std::size_t kCharacters = 0x144;  // one above the last of the alphabet

bool is_printable(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<std::uint32_t, 256> character{};
  std::array<int, kCharacters> byte{};

  Alphabet() {
    byte.fill(-1);
    std::uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = is_printable(b) ? b : next++;
      byte[character[b]] = static_cast<int>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet one;
  return one;
}

}  // namespace

std::uint32_t character_of_byte(unsigned char byte) { return alphabet().character[byte]; }

std::optional<std::string> bytes_of_piece(std::string_view piece) {
  std::string bytes;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t length = io::utf8_length(piece, at);
    const auto lead = static_cast<unsigned char>(piece[at]);
    if (length != 1 && length != 2) {
      return std::nullopt;
    }
    const std::uint32_t code =
        length == 1 ? lead : (lead & 0x1FU) << 6 | (static_cast<unsigned char>(piece[at + 1]) & 0x3FU);
    if (code >= kCharacters || alphabet().byte[code] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(alphabet().byte[code]);
    at += length;
  }
  return bytes;
}

}  // namespace moelora::model::tokenizers
