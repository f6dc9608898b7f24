#pragma once
// SHA-256 (FIPS 180-4), for fingerprints and checksums.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace moelora::io {

class Sha256 {
 public:
  Sha256& update(const void* data, std::size_t size);
  Sha256& update(std::string_view text) { return update(text.data(), text.size()); }
  std::string hex();  ///< The digest as 64 hexadecimal digits; ends the computation.

 private:
  void blocks(const std::uint8_t* bytes, std::size_t count);
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> buffer_{};
  std::uint64_t size_ = 0;
};

std::string sha256_of(std::string_view bytes);
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace moelora::io
