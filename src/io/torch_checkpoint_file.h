#pragma once
// A state dict written by torch.save, opened: names are known, tensors are read from the mapped file one at a time.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/mapped_file.h"

namespace moelora::io {

class TorchCheckpointFile {
 public:
  /// A tensor as strides over the bytes of a storage; everything was checked to lie within them.
  struct Entry {
    at::ScalarType dtype;
    std::string_view storage;
    std::int64_t offset = 0;  ///< In elements, as are the strides.
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;
  };

  /// Error naming the file and what is wrong with it; see load_torch_checkpoint.
  explicit TorchCheckpointFile(const std::filesystem::path& path);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  /// An owned, contiguous copy, converted to `as` if given. The name must be known.
  at::Tensor tensor(const std::string& name, std::optional<at::ScalarType> as = {}) const;
  std::optional<std::string_view> bytes(const std::string& name) const;  ///< As mapped, if they lie in order there.

 private:
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Entry> entries_;
};

}  // namespace moelora::io
