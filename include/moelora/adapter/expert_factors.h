#pragma once
// The experts of an adapter one by one, as LoRAs of their own: what compositions take apart and put together. All of it
// is for adapters whose linears have MoeLoraLinear deltas; another kind is an Error that names it.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"

namespace moelora {

/// A_i [r/N, d_in] and B_i [d_out, r/N] of one expert in every linear, in the order of adapter.linears(): views of the
/// parameters, without the scale alpha / r. Error: no such expert.
std::vector<nn::LowRank> expert_factors(const AdapterImpl& adapter, std::int64_t expert);
/// The gradients of these. Error if there are none.
std::vector<nn::LowRank> expert_gradients(const AdapterImpl& adapter, std::int64_t expert);

/// Copies such factors, of rank r/N or less (the rest becomes 0), into one expert of every linear.
void set_expert_factors(AdapterImpl& adapter, std::int64_t expert, const std::vector<nn::LowRank>& factors);

/// The updates that the experts of a stored adapter make: s · B_i A_i, with s inside B.
struct ExpertUpdates {
  std::vector<std::string> linears;                 ///< Names, ascending.
  std::vector<std::vector<nn::LowRank>> of_expert;  ///< [N][linears]
};
/// `tensors`: named as adapter_tensors() names them (adapter_file.h); `config`: of the adapter that they belong to.
ExpertUpdates expert_updates(const MoeLoraConfig& config, const std::map<std::string, at::Tensor>& tensors);

}  // namespace moelora
