#include "moelora/adapter/expert_factors.h"

#include <ATen/ATen.h>

#include "adapter/core/adapter_shapes.h"
#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

const MoeLoraLinearImpl& with_experts(const AdapterImpl::AdaptedLinear& linear) {
  const auto* delta = dynamic_cast<const MoeLoraLinearImpl*>(linear.delta.get());
  MOELORA_CHECK(delta != nullptr, "expected an adapter with experts (delta \"moelora\"), found ", linear.delta->name(),
                " on ", linear.name, "; compose adapters of that kind");
  return *delta;
}

}  // namespace

std::vector<nn::LowRank> expert_factors(const AdapterImpl& adapter, std::int64_t expert) {
  std::vector<nn::LowRank> factors;
  for (const auto& linear : adapter.linears()) {
    factors.push_back(with_experts(linear).expert(expert));
  }
  return factors;
}

std::vector<nn::LowRank> expert_gradients(const AdapterImpl& adapter, std::int64_t expert) {
  std::vector<nn::LowRank> gradients;
  for (const auto& linear : adapter.linears()) {
    gradients.push_back(with_experts(linear).expert_gradient(expert));
  }
  return gradients;
}

void set_expert_factors(AdapterImpl& adapter, std::int64_t expert, const std::vector<nn::LowRank>& factors) {
  at::NoGradGuard no_grad;
  const std::vector<nn::LowRank> own = expert_factors(adapter, expert);
  MOELORA_CHECK(factors.size() == own.size(), "expected the factors of each of ", own.size(),
                " adapted linears, found ", factors.size());
  for (std::size_t i = 0; i < own.size(); ++i) {
    const auto& [A, B] = factors[i];
    const std::int64_t rank = factors[i].rank();
    MOELORA_CHECK(
        rank <= own[i].rank() && B.size(1) == rank && A.size(1) == own[i].A.size(1) && B.size(0) == own[i].B.size(0),
        adapter.linears()[i].name, ": expected factors of rank ", own[i].rank(), " or less for A ", own[i].A.sizes(),
        " and B ", own[i].B.sizes(), ", found A ", A.sizes(), " and B ", B.sizes());
    own[i].A.zero_();
    own[i].B.zero_();
    own[i].A.narrow(0, 0, rank).copy_(A);
    own[i].B.narrow(1, 0, rank).copy_(B);
  }
}

ExpertUpdates expert_updates(const MoeLoraConfig& config, const std::map<std::string, at::Tensor>& tensors) {
  ExpertUpdates updates;
  for (const auto& [name, tensor] : tensors) {
    if (const auto place = linear_tensor_place(name); place && place->second == "A") {
      updates.linears.push_back(place->first);
    }
  }
  const auto rank = config.rank / config.num_experts;
  for (std::int64_t expert = 0; expert < config.num_experts; ++expert) {
    auto& of_linears = updates.of_expert.emplace_back();
    for (const std::string& linear : updates.linears) {
      const at::Tensor A = tensors.at(linear_tensor_name(linear, "A")).narrow(0, expert * rank, rank);
      const at::Tensor B = tensors.at(linear_tensor_name(linear, "B")).narrow(1, expert * rank, rank);
      of_linears.push_back({A.contiguous(), B * config.scaling()});
    }
  }
  return updates;
}

}  // namespace moelora
