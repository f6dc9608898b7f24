#include "adapter/core/target_linears.h"

#include <algorithm>
#include <regex>

#include "adapter/core/target_pattern.h"
#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"
#include "moelora/io/saved_names.h"

namespace moelora {
namespace {

using NamedModule = std::pair<std::string, std::shared_ptr<torch::nn::Module>>;

constexpr std::size_t kShownLinears = 8;

// Why a target can't be used, or nothing; what it names is marked in `chosen`, and a target that names nothing joins
// `unmatched`.
std::string choose_target(const std::string& target, const std::vector<NamedModule>& modules,
                          const std::vector<std::string>& adaptable, std::vector<bool>& chosen,
                          std::vector<std::string>& unmatched) {
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
    unmatched.push_back("'" + target + "'");
    return "";
  }
  return "target '" + target +
         "' matches only modules that accept no adapter: " + io::in_a_row(without_linear, kShownLinears) +
         "; use moelora::nn::Linear there";
}

}  // namespace

std::vector<NamedLinear> find_targets(torch::nn::Module& base, const std::vector<std::string>& targets) {
  std::vector<NamedModule> modules;
  for (const auto& module : base.named_modules("", /*include_self=*/false)) {
    modules.emplace_back(module.key(), module.value());
  }
  const std::vector<std::string> adaptable = adaptable_linears(base);
  std::vector<bool> chosen(modules.size(), false);
  std::string problems;
  std::vector<std::string> unmatched;
  for (const std::string& target : targets) {
    const std::string problem = choose_target(target, modules, adaptable, chosen, unmatched);
    problems += (problems.empty() || problem.empty() ? "" : "\n") + problem;
  }
  if (!unmatched.empty()) {
    problems += (problems.empty() ? "" : "\n") + ("adapter.targets: " + io::in_a_row(unmatched)) +
                " matches no module; linears that accept an adapter: " + shown_linears(adaptable);
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

}  // namespace moelora
