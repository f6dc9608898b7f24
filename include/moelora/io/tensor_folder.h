#pragma once
// The weights of a model folder, whatever their form: model.safetensors, sharded safetensors with index, one
// pytorch_model.bin, or sharded .bin with index. Files are mapped, so an open folder costs no memory; tensors are read
// one at a time. Names are those of the model: what wrappers (torch.compile, DataParallel, PEFT, …) put into the names
// of a state dict is taken off.

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
  /// Opens the first of forms(folder). Error if the folder has no weights or files without a tensor, an index names a
  /// missing file, a shard lacks a tensor the index promises, or a tensor is there twice.
  explicit TensorFolder(const std::filesystem::path& folder);
  /// Opens the form whose file is `form`, one of forms(folder).
  TensorFolder(const std::filesystem::path& folder, const std::string& form);
  ~TensorFolder();

  /// Files with which the forms of the weights in `folder` begin, in the order of preference; an index comes before the
  /// single file of its kind.
  static std::vector<std::string> forms(const std::filesystem::path& folder);
  const std::string& form() const;  ///< The one that was opened.

  /// Takes `prefix` off every name if all of them begin with it. True if they did.
  bool drop_prefix(const std::string& prefix);

  const std::vector<std::string>& names() const;  ///< In shard order, so that a sequential reader holds one shard.
  bool contains(const std::string& name) const;
  const TensorInfo& info(const std::string& name) const;  ///< dtype and shape; nothing is read.
  /// An owned aligned copy, converted to `as` if given. Memory grows by the result alone: the pages of the file are
  /// given back on the way. Large tensors lie in huge pages where the system grants them.
  at::Tensor tensor(const std::string& name, std::optional<at::ScalarType> as = {}) const;
  bool same_bytes(const std::string& a, const std::string& b) const;  ///< dtype, shape and bytes agree.
  /// `count` values from the flattened tensor's index `begin` on, in its dtype, clipped to its end. Only they are read
  /// where they lie in order in the file.
  at::Tensor piece(const std::string& name, std::int64_t begin, std::int64_t count) const;
  const std::filesystem::path& folder() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Those of `names` that differ in shape or value, or that only one of the two folders holds. Values are compared in
/// the narrower of their dtypes: a copy in half precision is the same tensor. Of tensors with more than a million
/// values the beginning, middle and end are compared.
std::vector<std::string> differing_tensors(const TensorFolder& a, const TensorFolder& b,
                                           const std::vector<std::string>& names);

/// Writes `model.safetensors`, or `model-0000i-of-0000n.safetensors` with `model.safetensors.index.json` when the
/// tensors exceed `max_shard_bytes`. Each file is written atomically, the index last.
void save_tensor_folder(const std::filesystem::path& folder, const NamedTensors& tensors,
                        std::uint64_t max_shard_bytes = 4ull << 30);

}  // namespace moelora::io
