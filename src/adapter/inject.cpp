#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <regex>

#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

// A target is a suffix at a name-component boundary, or a regular expression that matches the whole name.
class TargetPattern {
 public:
  explicit TargetPattern(const std::string& text) : text_(text) {
    try {
      expression_ = std::regex(text, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
      throw Error("target '" + text + "' is neither a name nor a valid regular expression: " + error.what());
    }
  }
  bool matches(const std::string& name) const {
    return name == text_ || name.ends_with("." + text_) || std::regex_match(name, expression_);
  }

 private:
  std::string text_;
  std::regex expression_;
};

// FNV-1a: a linear's dropout masks depend on its name, not on how many linears are adapted.
std::uint64_t key_of_name(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  return hash;
}

std::string join(const std::vector<std::string>& names, std::size_t limit = 8) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < limit; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > limit ? text + ", … (" + std::to_string(names.size()) + " in all)" : text;
}

// The linears of `base` that the targets name, in the order of the module tree.
std::vector<std::pair<std::string, std::shared_ptr<nn::LinearImpl>>> find_targets(
    torch::nn::Module& base, const std::vector<std::string>& targets) {
  const auto modules = base.named_modules("", /*include_self=*/false);
  std::vector<TargetPattern> patterns(targets.begin(), targets.end());
  std::vector<bool> chosen(modules.size(), false);
  std::vector<std::string> problems;
  for (std::size_t p = 0; p < patterns.size(); ++p) {
    bool found = false;
    std::vector<std::string> refused;
    for (std::size_t m = 0; m < modules.size(); ++m) {
      if (!patterns[p].matches(modules[m].key())) {
        continue;
      }
      if (std::dynamic_pointer_cast<nn::LinearImpl>(modules[m].value())) {
        chosen[m] = found = true;
      } else {
        refused.push_back(modules[m].key() + " (" + modules[m].value()->name() + ")");
      }
    }
    if (!found && refused.empty()) {
      std::vector<std::string> linears;
      for (const auto& module : modules) {
        if (std::dynamic_pointer_cast<nn::LinearImpl>(module.value())) {
          linears.push_back(module.key());
        }
      }
      problems.push_back("target '" + targets[p] + "' matches no module; linears that accept an adapter: " +
                         (linears.empty() ? "none (use moelora::nn::Linear in the model)" : join(linears)));
    } else if (!found) {
      problems.push_back("target '" + targets[p] + "' matches only modules that accept no adapter: " + join(refused) +
                         "; use moelora::nn::Linear there");
    }
  }
  if (!problems.empty()) {
    std::string text;
    for (const std::string& problem : problems) {
      text += (text.empty() ? "" : "\n") + problem;
    }
    throw Error(text);
  }
  std::vector<std::pair<std::string, std::shared_ptr<nn::LinearImpl>>> linears;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    if (chosen[m]) {
      linears.emplace_back(modules[m].key(), std::dynamic_pointer_cast<nn::LinearImpl>(modules[m].value()));
    }
  }
  return linears;
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

}  // namespace

Adapter inject(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name) {
  config.validate();
  const auto targets = find_targets(base, config.targets);
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
