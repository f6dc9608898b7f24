#pragma once
// Checkpoints of P-Tuning v2's script: a model folder whose weights are, or contain, the tensors of
// `transformer.prefix_encoder`.

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "moelora/adapter/adapter.h"

namespace moelora {

struct PrefixCheckpoint {
  PrefixConfig config;                        ///< Length and projection as the shapes say; dropout as the script's.
  std::map<std::string, at::Tensor> tensors;  ///< fp32, named as adapter_tensors names them
  std::size_t others = 0;                     ///< Tensors of the folder that belong to no prefix (the base's).
  /// A shape that these tensors fit: layers, heads of one's choice, hidden size.
  nn::PrefixShape shape;
};

/// Nothing if the folder holds no weights, or none of a prefix. Error: the tensors don't fit each other or the
/// config.json beside them (pre_seq_len, prefix_projection, hidden_size, num_layers).
std::optional<PrefixCheckpoint> read_prefix_checkpoint(const std::filesystem::path& folder);

/// An adapter that is this prefix alone, on `base`, a nn::PrefixHost.
Adapter load_prefix_checkpoint(torch::nn::Module& base, const PrefixCheckpoint& checkpoint, const std::string& origin,
                               const std::string& task = "default", const std::string& name = "default");

}  // namespace moelora
