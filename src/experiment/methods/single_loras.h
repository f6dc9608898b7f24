#pragma once
// The finished method "lora-single" as what compositions are made of, and how compositions become adapters again.

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/experiment/method.h"
#include "moelora/nn/linear_delta.h"

namespace moelora::experiment {

inline constexpr const char* kSingleRow = "lora-single";

/// What a report says of methods that are made of the single LoRAs.
inline constexpr const char* kCompositionRemark =
    "Compositions count the parameters of all single LoRAs that they are made of; their time is that of composing, "
    "without the single LoRAs' training. λ and LoRAHub's few examples come from the validation part.";

struct SingleLoras {
  MoeLoraConfig config;                           ///< of the method: K experts
  TaskNames tasks;                                ///< of the method
  std::map<std::string, at::Tensor> tensors;      ///< as in its file
  std::vector<std::string> linears;               ///< names
  std::vector<std::vector<nn::LowRank>> of_task;  ///< [K][linears], alpha / rank inside B
};
SingleLoras read_single_loras(const Workbench& bench);

/// Injects an adapter for the bench's tasks and fills it.
Adapter inject_with(Workbench& bench, const MoeLoraConfig& config, const std::map<std::string, at::Tensor>& tensors);

/// An adapter of the same A and B with fixed weights of the experts, [K][N].
Adapter inject_table(Workbench& bench, const SingleLoras& loras, std::vector<std::vector<double>> table);

/// One update for all tasks, or (`per_task`) one for each, given as factors [updates][linears]: exact, whatever their
/// rank (all linears get the largest one, the rest is 0).
Adapter inject_factors(Workbench& bench, const SingleLoras& loras,
                       const std::vector<std::vector<nn::LowRank>>& updates);
/// The same into an adapter that is there already.
void fill_factors(AdapterImpl& adapter, const std::vector<std::vector<nn::LowRank>>& updates);

/// LoRAHub's composition on (A, B) of each linear, one weight for each of loras.of_task.
std::vector<nn::LowRank> composed_factors(const SingleLoras& loras, const std::vector<double>& weights);

/// Mean loss on the validation part.
double validation_loss_of(Workbench& bench, const AdapterImpl& adapter, const std::vector<data::Example>& validation);

/// Stores a composed adapter as the cell's product: bench.folder / "run/adapter", where trained methods have theirs.
void save_product(const Workbench& bench, const AdapterImpl& adapter, const nlohmann::ordered_json& details);

}  // namespace moelora::experiment
