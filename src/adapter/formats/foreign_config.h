#pragma once
// adapter_config.json of MOELoRA-peft and PEFT, reduced to what this library computes.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <regex>
#include <string>
#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/adapter/foreign.h"

namespace moelora {

/// PEFT's rank_pattern or alpha_pattern: the first entry whose key is, as a regular expression, the whole name of a
/// linear or its end after a dot gives the value.
class ForeignPattern {
 public:
  void add(const std::string& key, double value);  ///< Error: no expression that this library takes.
  double value_for(const std::string& linear, double otherwise) const;
  std::vector<std::string> keys_without_match(const std::vector<std::string>& linears) const;
  bool empty() const { return entries_.empty(); }

 private:
  struct Entry {
    std::string key;
    std::regex expression;
    double value;
  };
  std::vector<Entry> entries_;
};

struct ForeignConfig {
  MoeLoraConfig config;  ///< Without targets. Rank and alpha are those of linears that no pattern names.
  ForeignPattern rank_pattern;
  ForeignPattern alpha_pattern;
  double lora_alpha = 1.0;  ///< As written.
  bool rank_stabilised = false;
  std::int64_t rank_of(const std::string& linear) const;
  double scaling_of(const std::string& linear) const;     ///< alpha / r, or alpha / sqrt(r) (rank-stabilised).
  bool has_own_scaling(const std::string& linear) const;  ///< Another rank or alpha than config's.
  std::int64_t tasks = 1;
  std::vector<std::string> task_names;  ///< Only in MOELoRA-peft folders that this library wrote.
  /// target_modules. Empty: the set of adapted linears is the one in the tensors' file (all-linear,
  /// layers_to_transform, patterns that only Python understands).
  std::vector<std::string> targets;
  bool targets_are_names = false;     ///< Of a list, where PEFT passes over entries that match nothing.
  bool gate_in_every_linear = false;  ///< peft_type MMOELORA: each layer routes by itself, there is no shared gate.
};

/// Error naming every setting that changes the computation in a way this library does not follow (DoRA, biases,
/// modules_to_save, …).
ForeignConfig read_foreign_config(const std::filesystem::path& folder);

/// The keys that both formats share, for writing; rank, alpha and dropout are those of `config`. `targets` in PEFT's
/// sense: exact name, or suffix after a dot.
nlohmann::ordered_json shared_foreign_settings(const AdapterImpl& adapter, const MoeLoraConfig& config);

}  // namespace moelora
