#pragma once
// Reading what Python's torch.save writes for a state dict: a zip archive with `data.pkl` and raw storages. The pickle
// is interpreted by a small machine that knows only dicts, tuples, numbers, strings and an allow-list of globals
// (collections.OrderedDict, torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter, torch.*Storage):
// anything else is an Error that names the global. No code from a file ever runs.

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace moelora::io {

/// The tensors of a state dict by name, as owned contiguous copies. Tensors that share a storage are each copied.
std::map<std::string, at::Tensor> load_torch_checkpoint(const std::filesystem::path& path);

}  // namespace moelora::io
