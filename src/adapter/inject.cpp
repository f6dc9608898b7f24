#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>
#include <map>

#include "adapter/adapter_loading.h"
#include "adapter/target_pattern.h"
#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"
#include "moelora/io/memory.h"
#include "moelora/io/saved_names.h"

namespace moelora {
namespace {

using NamedModule = std::pair<std::string, std::shared_ptr<torch::nn::Module>>;

constexpr std::size_t kShownLinears = 8;

// FNV-1a: a linear's dropout masks depend on its name, not on how many linears are adapted.
std::uint64_t key_of_name(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  return hash;
}

using NamedLinear = std::pair<std::string, std::shared_ptr<nn::LinearImpl>>;

// Why a target can't be used, or nothing; what it names is marked in `chosen`.
std::string choose_target(const std::string& target, const std::vector<NamedModule>& modules,
                          const std::vector<std::string>& adaptable, std::vector<bool>& chosen) {
  const TargetPattern pattern(target);
  bool found = false;
  std::vector<std::string> without_linear;
  std::vector<std::string> refusing;
  std::string reason;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    const auto& [name, module] = modules[m];
    if (!pattern.matches(name)) {
      continue;
    }
    const auto linear = std::dynamic_pointer_cast<nn::LinearImpl>(module);
    if (!linear) {
      without_linear.push_back(name + " (" + module->name() + ")");
    } else if (!linear->refusal().empty()) {
      refusing.push_back(name);
      reason = linear->refusal();
    } else {
      chosen[m] = found = true;
    }
  }
  if (!refusing.empty()) {
    // Also where the target names others too: an adapter that is silently smaller than asked for is no help.
    return "target '" + target + "' matches " + io::in_a_row(refusing) + ", which takes no adapter (" + reason +
           "); name only linears that do: " + shown_linears(adaptable);
  }
  if (found) {
    return "";
  }
  if (without_linear.empty()) {
    return "target '" + target + "' matches no module; linears that accept an adapter: " + shown_linears(adaptable);
  }
  return "target '" + target +
         "' matches only modules that accept no adapter: " + io::in_a_row(without_linear, kShownLinears) +
         "; use moelora::nn::Linear there";
}

// The linears of `base` that the targets name, in the order of the module tree.
std::vector<NamedLinear> find_targets(torch::nn::Module& base, const std::vector<std::string>& targets) {
  std::vector<NamedModule> modules;
  for (const auto& module : base.named_modules("", /*include_self=*/false)) {
    modules.emplace_back(module.key(), module.value());
  }
  const std::vector<std::string> adaptable = adaptable_linears(base);
  std::vector<bool> chosen(modules.size(), false);
  std::string problems;
  for (const std::string& target : targets) {
    const std::string problem = choose_target(target, modules, adaptable, chosen);
    problems += (problems.empty() || problem.empty() ? "" : "\n") + problem;
  }
  if (!problems.empty()) {
    throw Error(problems);
  }
  std::vector<NamedLinear> linears;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    if (chosen[m]) {
      linears.emplace_back(modules[m].first, std::dynamic_pointer_cast<nn::LinearImpl>(modules[m].second));
    }
  }
  return linears;
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

PrefixEncoder make_prefix_encoder(const torch::nn::Module& base, const PrefixConfig& config) {
  if (config.length == 0) {
    return nullptr;
  }
  const auto* host = dynamic_cast<const nn::PrefixHost*>(&base);
  MOELORA_CHECK(host != nullptr, "a prefix needs a model that takes one (moelora::nn::PrefixHost), found ", base.name(),
                ", which does not; set prefix.length to 0 or implement that interface");
  return PrefixEncoder(config, host->prefix_shape());
}

SavedModules find_saved_modules(torch::nn::Module& base, const MoeLoraConfig& config,
                                const std::vector<std::pair<std::string, std::shared_ptr<nn::LinearImpl>>>& targets,
                                const std::string& adapter) {
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

AdapterShapes shapes_on(const std::vector<NamedLinear>& targets, const torch::nn::Module& base,
                        const MoeLoraConfig& config, std::int64_t num_tasks) {
  AdapterShapes shapes;
  for (const auto& [name, linear] : targets) {
    shapes.push_back({"linears." + name + ".A", {config.rank, linear->in_features()}});
    shapes.push_back({"linears." + name + ".B", {linear->out_features(), config.rank}});
    if (config.routing == Routing::token) {
      shapes.push_back({"linears." + name + ".router", {config.num_experts, linear->in_features()}});
    }
  }
  const bool gated = config.routing == Routing::task && config.num_experts > 1 && !targets.empty();
  for (std::size_t i = 0; gated && i < (config.per_linear ? targets.size() : 1); ++i) {
    const std::string prefix = config.per_linear ? "gates." + targets[i].first + "." : "gate.";
    shapes.push_back({prefix + "task_embedding", {config.reserved_rows + num_tasks, config.task_embedding_dim}});
    shapes.push_back({prefix + "weight", {config.num_experts, config.task_embedding_dim}});
  }
  if (const auto* host = dynamic_cast<const nn::PrefixHost*>(&base); host != nullptr && config.prefix.length > 0) {
    const auto hidden = host->prefix_shape().hidden();
    const auto width = host->prefix_shape().width();
    const bool projection = config.prefix.projection;
    shapes.push_back({"prefix.embedding", {config.prefix.length, projection ? hidden : width}});
    if (projection) {
      shapes.push_back({"prefix.hidden.weight", {hidden, hidden}});
      shapes.push_back({"prefix.hidden.bias", {hidden}});
      shapes.push_back({"prefix.output.weight", {width, hidden}});
      shapes.push_back({"prefix.output.bias", {width}});
    }
  }
  return shapes;
}

}  // namespace

AdapterShapes adapter_shapes(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks) {
  return shapes_on(find_targets(base, config.targets), base, config, num_tasks);
}

std::vector<std::string> adaptable_linears(torch::nn::Module& base) {
  std::vector<std::string> names;
  for (const auto& module : base.named_modules("", /*include_self=*/false)) {
    const auto linear = std::dynamic_pointer_cast<nn::LinearImpl>(module.value());
    if (linear && linear->refusal().empty()) {
      names.push_back(module.key());
    }
  }
  return names;
}

std::string shown_linears(const std::vector<std::string>& linears) {
  static const std::regex number("(^|\\.)\\d+(?=\\.|$)");
  std::vector<std::string> kinds;
  for (const std::string& linear : linears) {
    std::string kind = std::regex_replace(linear, number, "$1*");
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
      kinds.push_back(std::move(kind));
    }
  }
  return kinds.empty() ? "none (use moelora::nn::Linear in the model)" : io::in_a_row(kinds, kShownLinears);
}

Adapter inject(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name) {
  config.validate();
  const auto targets = find_targets(base, config.targets);
  double bytes = 0.0;
  for (const ExpectedTensor& tensor : shapes_on(targets, base, config, tasks.size())) {
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
  std::vector<AdapterImpl::AdaptedLinear> linears;
  for (const auto& [linear_name, linear] : targets) {
    const std::int64_t gate = config.per_linear ? static_cast<std::int64_t>(linears.size()) : 0;
    MoeLoraLinear delta(linear->in_features(), linear->out_features(), config, gate, key_of_name(linear_name));
    delta->reset_parameters(generator);
    linears.push_back({linear_name, linear, delta});
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
    linear.base->attach(name, linear.delta.ptr());
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
