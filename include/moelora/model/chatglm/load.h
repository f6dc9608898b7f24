#pragma once
// Model folders of ChatGLM-6B: reading and writing.

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <filesystem>
#include <optional>
#include <string>

#include "moelora/io/safetensors.h"
#include "moelora/model/chatglm/chatglm.h"

namespace moelora::model {

struct LoadOptions {
  std::optional<at::ScalarType> dtype;  ///< Default: fp32 on a CPU, the stored dtype on a GPU.
  at::Device device = at::kCPU;
};

/// Reads a model folder's config.json. Error: it describes another model, or the folder holds a P-Tuning v2 prefix
/// alone.
ChatGlmConfig read_chatglm_config(const std::filesystem::path& folder);

/// Reads config.json and the weights. What wrappers put in front of names is taken off (io/tensor_folder.h). One Error
/// names the missing, unexpected, misshapen and mistyped tensors, the first of each kind (`rotary_emb.inv_freq` entries
/// are ignored); what is no base of this family (a prefix alone, another generation, an unmerged LoRA) is named as what
/// it is. Weights in several forms: it logs which one was read, and warns where they differ. When lm_head's bytes equal
/// the embedding's, they become one tensor; a checkpoint without lm_head.weight is tied.
ChatGlm load_chatglm(const std::filesystem::path& folder, const LoadOptions& options = {});

/// The base weights by checkpoint name, as they are saved and fingerprinted (a tied head appears under both names).
io::NamedTensors base_tensors(const ChatGlmImpl& model);

/// Fingerprint of the base weights (io/fingerprint.h).
std::string base_fingerprint(const ChatGlmImpl& model);

/// Writes config.json and sharded safetensors into `folder` (existing; e.g. an io::AtomicFolder's path). With
/// `files_from`, the folder that the model or its tokenizer came from, also what that holds besides weights
/// (model/folder_files.h); where its config.json describes this very model, the keys that this library does not know,
/// such as its own auto_map, are kept.
void save_chatglm(const ChatGlmImpl& model, const std::filesystem::path& folder,
                  const std::filesystem::path& files_from = {}, std::uint64_t max_shard_bytes = 4ull << 30);

}  // namespace moelora::model
