#pragma once
// adapter_config.json of MOELoRA-peft and PEFT, reduced to what this library computes.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/adapter/foreign.h"

namespace moelora {

struct ForeignConfig {
  MoeLoraConfig config;  ///< Without targets.
  std::int64_t tasks = 1;
  std::vector<std::string> task_names;  ///< Only in MOELoRA-peft folders that this library wrote.
  /// target_modules. Empty: the set of adapted linears is the one in the tensors' file (all-linear,
  /// layers_to_transform, patterns that only Python understands).
  std::vector<std::string> targets;
  bool gate_in_every_linear = false;  ///< peft_type MMOELORA: each layer routes by itself, there is no shared gate.
};

/// Error naming every setting that changes the computation in a way this library does not follow (DoRA, biases, rank
/// patterns, modules_to_save, …).
ForeignConfig read_foreign_config(const std::filesystem::path& folder);

/// The keys that both formats share, for writing. `targets` in PEFT's sense: exact name, or suffix after a dot.
nlohmann::ordered_json shared_foreign_settings(const AdapterImpl& adapter);

}  // namespace moelora
