#pragma once
// Numbers of the GGUF format that its reader and its writer share.

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <optional>

namespace moelora::io::gguf {

inline constexpr const char* kMagic = "GGUF";
inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint64_t kAlignment = 32;  ///< Of a tensor's data, unless general.alignment says otherwise.
inline constexpr std::uint32_t kMaximalDimensions = 4;
inline constexpr std::size_t kLongestName = 63;  ///< Bytes of a tensor's name (GGML_MAX_NAME without its end).

// Types of values.
inline constexpr std::uint32_t kUint32 = 4;
inline constexpr std::uint32_t kFloat32 = 6;
inline constexpr std::uint32_t kString = 8;
inline constexpr std::uint32_t kArray = 9;

/// ggml's types of tensors; nothing: one that is not used here.
inline std::optional<at::ScalarType> dtype_of(std::uint32_t type) {
  switch (type) {
    case 0:
      return at::kFloat;
    case 1:
      return at::kHalf;
    case 30:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}
inline std::optional<std::uint32_t> type_of(at::ScalarType dtype) {
  for (const std::uint32_t type : {0U, 1U, 30U}) {
    if (dtype_of(type) == dtype) {
      return type;
    }
  }
  return std::nullopt;
}

}  // namespace moelora::io::gguf
