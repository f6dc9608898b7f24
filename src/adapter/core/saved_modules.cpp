#include "moelora/adapter/saved_modules.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <ostream>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

// Parameters and buffers of bases that an adapter trains whole, by identity: a module can travel with one adapter only,
// for its values are those of one at a time.
struct Claim {
  std::string adapter;
  bool in_base = false;
};

std::mutex& claims_mutex() {
  static std::mutex mutex;
  return mutex;
}

std::map<const at::TensorImpl*, Claim>& claims() {
  static std::map<const at::TensorImpl*, Claim> all;
  return all;
}

std::string first_names(const std::vector<std::string>& names) {
  constexpr std::size_t kLimit = 8;
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < kLimit; ++i) {
    text += (i == 0 ? "" : ", ") + names[i];
  }
  return names.size() > kLimit ? detail::concat(text, ", … (", names.size(), " in all)") : text;
}

bool lies_in(std::string_view name, std::string_view module) {
  return name == module || (name.size() > module.size() && name.starts_with(module) && name[module.size()] == '.');
}

using Modules = std::vector<std::pair<std::string, std::shared_ptr<torch::nn::Module>>>;

Modules chosen_modules(const torch::nn::Module& base, const std::vector<std::string>& names) {
  Modules chosen;
  std::vector<std::string> known;
  std::vector<bool> used(names.size(), false);
  for (const auto& module : base.named_modules("", /*include_self=*/false)) {
    known.push_back(module.key());
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (!names_module(names[i], module.key())) {
        continue;
      }
      used[i] = true;
      // A module comes before those that lie in it.
      if (std::none_of(chosen.begin(), chosen.end(),
                       [&](const auto& outer) { return lies_in(module.key(), outer.first); })) {
        MOELORA_CHECK(!module.value()->parameters().empty(), "modules_to_save: '", names[i], "' stands for ",
                      module.key(), " (", module.value()->name(), "), which has no parameters to train");
        chosen.emplace_back(module.key(), module.value());
      }
    }
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    MOELORA_CHECK(used[i], "modules_to_save: '", names[i], "' stands for no module of the base; it has ",
                  known.empty() ? "none" : first_names(known));
  }
  return chosen;
}

}  // namespace

bool names_module(std::string_view name, std::string_view module) {
  return !name.empty() && (module == name || (module.size() > name.size() && module.ends_with(name) &&
                                              module[module.size() - name.size() - 1] == '.'));
}

SavedModulesImpl::SavedModulesImpl(torch::nn::Module& base, const std::vector<std::string>& names,
                                   const std::vector<std::string>& adapted, std::string adapter)
    : torch::nn::Module("SavedModules"), adapter_(std::move(adapter)) {
  at::NoGradGuard no_grad;
  for (const auto& [name, module] : chosen_modules(base, names)) {
    for (const std::string& linear : adapted) {
      MOELORA_CHECK(!lies_in(linear, name), "modules_to_save: ", name, " is trained whole, but its linear ", linear,
                    " is adapted too; leave it out of modules_to_save or of targets");
    }
    for (const auto& parameter : module->named_parameters()) {
      MOELORA_CHECK(parameter.value().scalar_type() == at::kFloat, "modules_to_save: ", name, ".", parameter.key(),
                    " is ", io::dtype_name(parameter.value().scalar_type()),
                    "; what is trained is expected in float32: convert the module first, as in module->to(at::kFloat)");
      values_.push_back(
          {name + "." + parameter.key(), parameter.value(), parameter.value().detach().clone(), true, true});
    }
    for (const auto& buffer : module->named_buffers()) {
      if (buffer.value().defined()) {
        values_.push_back({name + "." + buffer.key(), buffer.value(), buffer.value().detach().clone(), false, false});
      }
    }
    // Module names hold no dots.
    std::string key = name;
    std::replace(key.begin(), key.end(), '.', '/');
    register_module(key, module);
  }
  for (const auto& other : base.named_parameters()) {
    for (const Value& value : values_) {
      MOELORA_CHECK(other.key() == value.name || !other.value().defined() || other.value().numel() == 0 ||
                        other.value().const_data_ptr() != value.in_base.const_data_ptr(),
                    "modules_to_save: ", value.name, " and ", other.key(),
                    " are one tensor, so training the one would change the other; untie them first");
    }
  }
  const std::lock_guard lock(claims_mutex());
  for (const Value& value : values_) {
    const auto found = claims().find(value.in_base.unsafeGetTensorImpl());
    MOELORA_CHECK(found == claims().end(), "modules_to_save: ", value.name, " travels with adapter '",
                  found == claims().end() ? "" : found->second.adapter, "' already; eject that one first");
  }
  for (const Value& value : values_) {
    claims()[value.in_base.unsafeGetTensorImpl()] = {adapter_, false};
  }
  claimed_ = true;
}

SavedModulesImpl::~SavedModulesImpl() {
  const std::lock_guard lock(claims_mutex());
  if (claimed_) {
    for (const Value& value : values_) {
      claims().erase(value.in_base.unsafeGetTensorImpl());
    }
  }
}

void SavedModulesImpl::pretty_print(std::ostream& stream) const { stream << "moelora::SavedModules"; }

void SavedModulesImpl::put(bool trained) {
  if (trained == in_base_ || !claimed_) {
    return;
  }
  at::NoGradGuard no_grad;
  for (Value& value : values_) {
    const at::Tensor other = value.in_base.detach().clone();
    value.in_base.copy_(value.elsewhere);
    value.elsewhere = other;
    if (value.is_parameter) {
      if (!trained) {
        value.requires_grad = value.in_base.requires_grad();
      }
      value.in_base.set_requires_grad(trained && value.requires_grad);
    }
  }
  in_base_ = trained;
  const std::lock_guard lock(claims_mutex());
  for (const Value& value : values_) {
    claims()[value.in_base.unsafeGetTensorImpl()].in_base = trained;
  }
}

void SavedModulesImpl::release() {
  put(false);
  const std::lock_guard lock(claims_mutex());
  for (const Value& value : values_) {
    claims().erase(value.in_base.unsafeGetTensorImpl());
  }
  claimed_ = false;
}

void require_no_saved_modules(const torch::nn::Module& base) {
  const std::lock_guard lock(claims_mutex());
  if (claims().empty()) {
    return;
  }
  for (const auto& parameter : base.named_parameters()) {
    const auto found = claims().find(parameter.value().unsafeGetTensorImpl());
    MOELORA_CHECK(found == claims().end() || !found->second.in_base, "the base's ", parameter.key(),
                  " holds values that adapter '", found == claims().end() ? "" : found->second.adapter,
                  "' trained (modules_to_save); disable() or eject that adapter first");
  }
}

}  // namespace moelora
