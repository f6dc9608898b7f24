#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <map>

#include "adapter/core/adapter_shapes.h"
#include "adapter/core/target_linears.h"
#include "moelora/adapter/adapter.h"
#include "moelora/adapter/delta_kind.h"
#include "moelora/io/error.h"
#include "moelora/io/memory.h"

namespace moelora {
namespace {

// FNV-1a: a linear's dropout masks depend on its name, not on how many linears are adapted.
std::uint64_t key_of_name(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  return hash;
}

// Notes for each linear the other parameter of `base` that is its weight, as with a head that is tied to an embedding.
void find_shared_weights(const torch::nn::Module& base, const std::vector<AdapterImpl::AdaptedLinear>& linears) {
  std::multimap<const at::TensorImpl*, std::string> names;
  for (const auto& parameter : base.named_parameters()) {
    names.emplace(parameter.value().unsafeGetTensorImpl(), parameter.key());
  }
  for (const auto& linear : linears) {
    linear.base->shared_with.clear();
    const auto [begin, end] = names.equal_range(linear.base->weight.unsafeGetTensorImpl());
    for (auto entry = begin; entry != end; ++entry) {
      if (entry->second != linear.name + ".weight") {
        linear.base->shared_with = entry->second;
      }
    }
  }
}

PrefixEncoder make_prefix_encoder(const torch::nn::Module& base, const std::optional<PrefixConfig>& config) {
  if (!config) {
    return nullptr;
  }
  const auto* host = dynamic_cast<const nn::PrefixHost*>(&base);
  MOELORA_CHECK(host != nullptr, "a prefix needs a model that takes one (moelora::nn::PrefixHost), found ", base.name(),
                ", which does not; leave prefix out or implement that interface");
  return PrefixEncoder(*config, host->prefix_shape());
}

SavedModules find_saved_modules(torch::nn::Module& base, const MoeLoraConfig& config,
                                const std::vector<NamedLinear>& targets, const std::string& adapter) {
  if (config.modules_to_save.empty()) {
    return nullptr;
  }
  std::vector<std::string> adapted;
  for (const auto& target : targets) {
    adapted.push_back(target.first);
  }
  return SavedModules(base, config.modules_to_save, adapted, adapter);
}

void set_trainable(torch::nn::Module& module, bool trainable) {
  for (at::Tensor& parameter : module.parameters()) {
    parameter.set_requires_grad(trainable);
  }
}

}  // namespace

Adapter inject(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name) {
  config.validate();
  const auto targets = find_targets(base, config.targets);
  double bytes = 0.0;
  for (const ExpectedTensor& tensor : adapter_shapes(targets, base, config, tasks.size())) {
    double elements = 1.0;
    for (const std::int64_t size : tensor.shape) {
      elements *= static_cast<double>(size);
    }
    bytes += elements * sizeof(float);
  }
  io::check_memory(bytes, "the adapter", "lower rank, task_embedding_dim or prefix.length, or adapt fewer linears");
  require_no_saved_modules(base);
  for (const auto& [linear_name, linear] : targets) {
    MOELORA_CHECK(linear->delta(name) == nullptr, "an adapter named '", name, "' is attached to ", linear_name,
                  " already; eject it first or choose another name");
    MOELORA_CHECK(linear->merged_adapter.empty(), "adapter '", linear->merged_adapter, "' is merged into ", linear_name,
                  "; unmerge it first");
  }
  SavedModules saved_modules = find_saved_modules(base, config, targets, name);
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(config.seed);
  const DeltaKind& kind = delta_kind(config.delta);
  std::vector<AdapterImpl::AdaptedLinear> linears;
  for (const auto& [linear_name, linear] : targets) {
    const std::int64_t gate = config.gate.per_linear ? static_cast<std::int64_t>(linears.size()) : 0;
    auto delta = kind.make(config, {linear->in_features(), linear->out_features()}, gate, key_of_name(linear_name));
    delta->reset_parameters(generator);
    linears.push_back({linear_name, linear, std::move(delta)});
  }
  PrefixEncoder prefix_encoder = make_prefix_encoder(base, config.prefix);
  Adapter adapter(name, config, std::move(tasks), std::move(linears), prefix_encoder);
  for (TaskGate& gate : adapter->gates()) {
    gate->reset_parameters(generator);
  }
  if (prefix_encoder) {
    prefix_encoder->reset_parameters(generator);  // last: the other values are those of an adapter without prefix
  }
  const auto parameters = base.parameters();
  if (!targets.empty() || !parameters.empty()) {
    adapter->to(targets.empty() ? parameters.front().device() : targets.front().second->weight.device());
  }
  for (const auto& linear : adapter->linears()) {
    linear.base->attach(name, linear.delta);
  }
  find_shared_weights(base, adapter->linears());
  freeze(base);
  if (saved_modules) {
    adapter->save_modules(std::move(saved_modules));
  }
  adapter->enable();
  return adapter;
}

void eject(Adapter& adapter) {
  MOELORA_CHECK(adapter->merge_state() == nullptr, "adapter '", adapter->adapter_name(),
                "' is merged into the base; unmerge it before ejecting it");
  adapter->disable();
  adapter->release_modules();
  for (const auto& linear : adapter->linears()) {
    linear.base->detach(adapter->adapter_name());
  }
}

void freeze(torch::nn::Module& module) { set_trainable(module, false); }
void unfreeze(torch::nn::Module& module) { set_trainable(module, true); }

}  // namespace moelora
