#pragma once
// What Python's torch.save writes for a dictionary of tensors, for programs that read nothing else.

#include <filesystem>

#include "moelora/io/safetensors.h"

namespace moelora {

/// A zip archive with `data.pkl` and raw storages, as torch.load reads it, also with weights_only. The tensors must be
/// fp32, contiguous and on the CPU. Entries that are one tensor share one storage.
/// Written atomically.
void save_pickle_file(const std::filesystem::path& path, const io::NamedTensors& tensors);

}  // namespace moelora
