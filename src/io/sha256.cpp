#include "moelora/io/sha256.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "io/sha256_blocks.h"
#include "moelora/io/error.h"

namespace moelora::io {

void Sha256::blocks(const std::uint8_t* bytes, std::size_t count) {
  if (sha256_hardware_present()) {
    sha256_blocks_hardware(state_, bytes, count);
  } else {
    sha256_blocks_portable(state_, bytes, count);
  }
}

Sha256& Sha256::update(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  const std::size_t held = size_ % 64;
  size_ += size;
  if (held > 0) {
    const std::size_t taken = std::min(size, 64 - held);
    std::copy_n(bytes, taken, buffer_.data() + held);
    bytes += taken;
    size -= taken;
    if (held + taken < 64) {
      return *this;
    }
    blocks(buffer_.data(), 1);
  }
  blocks(bytes, size / 64);
  std::copy_n(bytes + size / 64 * 64, size % 64, buffer_.data());
  return *this;
}

std::string Sha256::hex() {
  const std::uint64_t bits = size_ * 8;
  std::array<std::uint8_t, 72> padding{0x80};
  const std::size_t zeros_end = (size_ % 64 < 56 ? 56 : 120) - size_ % 64;
  for (std::size_t i = 0; i < 8; ++i) {
    padding[zeros_end + i] = static_cast<std::uint8_t>(bits >> (56 - 8 * i));
  }
  update(padding.data(), zeros_end + 8);
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) {
      text += kDigits[word >> shift & 15];
    }
  }
  return text;
}

std::string sha256_of(std::string_view bytes) { return Sha256().update(bytes).hex(); }

std::string sha256_of_file(const std::filesystem::path& path) {
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  MOELORA_CHECK(stream.is_open() && !std::filesystem::is_directory(path), "cannot read ", path.string(), ": ",
                errno != 0 ? std::strerror(errno) : "expected a file, found a folder");
  Sha256 hash;
  std::vector<char> buffer(std::size_t{1} << 20);
  do {
    stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(buffer.data(), static_cast<std::size_t>(stream.gcount()));
  } while (stream);
  MOELORA_CHECK(stream.eof() && !stream.bad(), "cannot read ", path.string(), " to its end: ", std::strerror(errno));
  return hash.hex();
}

}  // namespace moelora::io
