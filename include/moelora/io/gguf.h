#pragma once
// GGUF version 3 in little-endian, the files of ggml and llama.cpp: typed metadata, then aligned tensors.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "moelora/io/safetensors.h"

namespace moelora::io {

using GgufValue = std::variant<std::string, float, std::uint32_t>;
using GgufMetadata = std::vector<std::pair<std::string, GgufValue>>;

/// Writes one file, atomically, tensors in the given order at multiples of 32 bytes. Tensors of any device and stride,
/// F32, F16 or BF16, with one to four dimensions; a shape [d0, d1] is written as ggml's ne = (d1, d0), the same bytes.
/// Error: another type or shape, a name that is longer than 63 bytes (ggml's limit) or there twice.
void save_gguf(const std::filesystem::path& path, const GgufMetadata& metadata, const NamedTensors& tensors);

/// Reads what save_gguf writes, and other files whose tensors are F32, F16 or BF16. The file is mapped; counts, sizes
/// and offsets are checked on opening: a damaged or cut-off file is an Error that names the file and the place.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;

  const std::string& label() const;  ///< The path, for messages.
  /// Strings, float32 and uint32 by key; values of other types and lists are passed over.
  const std::map<std::string, GgufValue>& metadata() const;
  /// The value of `key`. Error if it is absent or of another type.
  const std::string& text(const std::string& key) const;
  float number(const std::string& key) const;
  /// Shapes with the slowest dimension first, as LibTorch has them; byte ranges within the data part.
  const std::map<std::string, TensorInfo>& entries() const;
  at::Tensor tensor(const std::string& name, std::optional<at::ScalarType> as = {}) const;  ///< An owned copy.

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moelora::io
