#pragma once
// Adapters of other programs: MOELoRA-peft checkpoints (read and write) and PEFT LoRA (read; write one task).

#include <filesystem>
#include <string>
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

/// Reads adapter_config.json and adapter_model.{safetensors,bin}, injects, fills. Every unknown key, missing or
/// misshapen tensor is named in one Error.
Adapter load_foreign_adapter(torch::nn::Module& base, const std::filesystem::path& folder,
                             const ForeignOptions& options = {}, const std::string& name = "default");

/// One task as an ordinary PEFT LoRA: A stays, B · diag(g) is the new B (adapter_config.json,
/// adapter_model.safetensors). Exact: the update is s · (B diag(g)) A in both. `base` becomes base_model_name_or_path,
/// where PEFT's AutoPeftModel and some servers look for the base. Error io::NotFinite, as in every export.
void export_peft(const AdapterImpl& adapter, std::string_view task, const std::filesystem::path& folder,
                 const std::string& base = {});

/// The whole adapter as a MOELoRA-peft checkpoint (adapter_config.json, adapter_model.safetensors, and
/// adapter_model.bin, which is the one that the reference reads). Error: top_k, no gate, or more than one reserved row,
/// which that format can't say. An adapter without reserved row gets a zero row in front, because task ids start at 1
/// there.
void export_moelora_peft(const AdapterImpl& adapter, const std::filesystem::path& folder, const std::string& base = {});

/// "base_model.model." + the base linear's name + ".": how both formats name a linear.
std::string foreign_prefix(const std::string& linear);

}  // namespace moelora
