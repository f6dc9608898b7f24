#pragma once
// Adapters of other programs: MOELoRA-peft checkpoints (read and write) and PEFT LoRA (read; write one task).

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/adapter/adapter.h"

namespace moelora {

enum class ForeignFormat { none, peft, moelora_peft };

/// By the files present and adapter_config.json's peft_type (LORA; MMOELORA / MMOELORAS).
ForeignFormat detect_foreign(const std::filesystem::path& folder);

struct ForeignOptions {
  /// Names of the tasks (MOELoRA-peft knows ids 1..K only). Empty: "task1" … "taskK"; PEFT LoRA: one task "default".
  std::vector<std::string> task_names;
  /// Use the per-layer gates of a MOELoRA-peft checkpoint instead of the shared one.
  bool per_linear = false;
};

/// A linear that such an adapter adapts, with sizes from its tensors.
struct ForeignShape {
  std::string name;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};

/// Reads adapter_config.json and adapter_model.{safetensors,bin}, injects, fills. Keys may carry what wrappers and
/// hand-written saving leave in them (`module.`, `_orig_mod.`, `base_model.model.` or not, `lora_A.NAME.weight`).
/// Different ranks (rank_pattern) become one, padded with zeros; different scales (alpha_pattern) fold into B. What is
/// unknown, missing, misshapen or not finite is named in one Error, linears that the base lacks beside its nearest
/// names. Warnings: an entry of target_modules that matches nothing (as in PEFT it is left out), an update that is
/// zero, a second tensors' file with other values.
Adapter load_foreign_adapter(torch::nn::Module& base, const std::filesystem::path& folder,
                             const ForeignOptions& options = {}, const std::string& name = "default");

/// The same on a base that is made for, or chosen by, what the adapter adapts.
using BaseForShapes = std::function<torch::nn::Module&(const std::vector<ForeignShape>&)>;
Adapter load_foreign_adapter(const BaseForShapes& base, const std::filesystem::path& folder,
                             const ForeignOptions& options = {}, const std::string& name = "default");

/// One task as an ordinary PEFT LoRA: A stays, B · diag(g) is the new B (adapter_config.json,
/// adapter_model.safetensors). Exact: the update is s · (B diag(g)) A in both. `base` becomes base_model_name_or_path,
/// where PEFT's AutoPeftModel and some servers look for the base. Error io::NotFinite, as in every export.
///
/// `padded_rank` above the adapter's rank r (0: no padding): rows of zeros below A, columns of zeros beside B, and
/// lora_alpha = s · padded_rank, so that PEFT's lora_alpha / r is s as before, to the last bit. Error: it is below r,
/// or no lora_alpha does so (none at a power of two).
void export_peft(const AdapterImpl& adapter, std::string_view task, const std::filesystem::path& folder,
                 const std::string& base = {}, std::int64_t padded_rank = 0);

/// The smallest of the ranks that an engine takes which is not below `rank`. Error if all are.
std::int64_t engine_rank(std::int64_t rank, const std::vector<std::int64_t>& ranks);

/// The whole adapter as a MOELoRA-peft checkpoint (adapter_config.json, adapter_model.safetensors, and
/// adapter_model.bin, which is the one that the reference reads). Error: top_k, no gate, or more than one reserved row,
/// which that format can't say. An adapter without reserved row gets a zero row in front, because task ids start at 1
/// there.
void export_moelora_peft(const AdapterImpl& adapter, const std::filesystem::path& folder, const std::string& base = {});

/// "base_model.model." + the base linear's name + ".": how both formats name a linear.
std::string foreign_prefix(const std::string& linear);

}  // namespace moelora
