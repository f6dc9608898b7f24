#pragma once
// The safetensors format (an 8-byte header length, a JSON header, raw little-endian tensors), read by mapping the file.
// Format: https://huggingface.co/docs/safetensors. Names, dtypes, shapes, offsets and overlaps are checked on opening:
// a damaged or cut-off file is an Error that names the file and the entry, never a crash.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moelora::io {

struct TensorInfo {
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
  std::size_t begin = 0;  ///< Byte range within the data part of the file.
  std::size_t end = 0;
};

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const std::map<std::string, TensorInfo>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  bool contains(const std::string& name) const;
  /// A copy in owned, 64-byte aligned memory (BLAS results can depend on alignment), converted to `as` if given. The
  /// file's pages don't stay in memory.
  at::Tensor tensor(const std::string& name, std::optional<at::ScalarType> as = {}) const;
  std::string_view bytes(const std::string& name) const;  ///< As mapped.
  /// A view of the mapped bytes; it keeps the mapping alive and must not be written to. Copied when misaligned.
  at::Tensor view(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// All tensors of one file, as owned copies, sorted by name.
std::map<std::string, at::Tensor> load_safetensors(const std::filesystem::path& path);

/// Writes one file, atomically. Tensors of any device and stride; dtypes F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL.
void save_safetensors(const std::filesystem::path& path, const NamedTensors& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace moelora::io
