#pragma once
// The weights of a model folder, whatever their form: model.safetensors, sharded safetensors with index, one
// pytorch_model.bin, or sharded .bin with index. Files are mapped, so an open folder costs no memory; tensors are read
// one at a time.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moelora/io/safetensors.h"

namespace moelora::io {

class TensorFolder {
 public:
  /// Error if the folder has no weights, an index names a missing file, or a shard lacks a tensor the index promises.
  explicit TensorFolder(const std::filesystem::path& folder);
  ~TensorFolder();

  const std::vector<std::string>& names() const;  ///< In shard order, so that a sequential reader holds one shard.
  bool contains(const std::string& name) const;
  const TensorInfo& info(const std::string& name) const;  ///< dtype and shape; nothing is read.
  /// An owned aligned copy, converted to `as` if given. Memory grows by the result alone: the pages of the file are
  /// given back on the way. Large tensors lie in huge pages where the system grants them.
  at::Tensor tensor(const std::string& name, std::optional<at::ScalarType> as = {}) const;
  bool same_bytes(const std::string& a, const std::string& b) const;  ///< dtype, shape and bytes agree.
  const std::filesystem::path& folder() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Writes `model.safetensors`, or `model-0000i-of-0000n.safetensors` with `model.safetensors.index.json` when the
/// tensors exceed `max_shard_bytes`. Each file is written atomically, the index last.
void save_tensor_folder(const std::filesystem::path& folder, const NamedTensors& tensors,
                        std::uint64_t max_shard_bytes = 4ull << 30);

}  // namespace moelora::io
