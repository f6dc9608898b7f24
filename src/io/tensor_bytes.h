#pragma once
// Tensors made from bytes that somebody else owns (a mapped file), whatever their alignment.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace moelora::io {

/// Dimensions that LibTorch's operations can handle.
inline constexpr std::size_t kMaximalDimensions = 64;

/// Product of the sizes times `item_size`; nothing on overflow, negative sizes or too many dimensions.
std::optional<std::uint64_t> checked_byte_count(const std::vector<std::int64_t>& shape, std::uint64_t item_size);

/// A contiguous tensor in owned, 64-byte aligned memory. Truth values become exactly 0 or 1.
at::Tensor copy_from_bytes(const std::uint8_t* bytes, const std::vector<std::int64_t>& shape, at::ScalarType dtype);

/// As copy_from_bytes, converted to the dtype `as`, of bytes in a mapped file, whose pages are given back as the copy
/// proceeds: memory holds the result and a little more. Large results lie in huge pages where the system grants them.
at::Tensor copy_from_file(const std::uint8_t* bytes, const std::vector<std::int64_t>& shape, at::ScalarType dtype,
                          at::ScalarType as);

/// Bytes of two mapped files, compared a little at a time, as copy_from_file reads them.
bool same_bytes_in_files(std::string_view a, std::string_view b);

/// "F32" and so on; null for types that the safetensors format lacks.
const char* safetensors_dtype_name(at::ScalarType dtype);

}  // namespace moelora::io
