#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "adapter/core/target_linears.h"
#include "adapter/core/target_pattern.h"
#include "adapter/formats/adapter_loading.h"
#include "adapter/formats/foreign_config.h"
#include "adapter/formats/foreign_tensors.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::string_view kPrefix = "base_model.model.";

/// Stacks the experts' factors: A along its rows, B along its columns. `axis` is the one of length rank / N. Undefined,
/// with a problem named, if one does not fit.
at::Tensor stack_factors(const std::map<std::int64_t, at::Tensor>& factors, std::int64_t experts, std::int64_t share,
                         std::int64_t axis, const std::string& key, std::vector<std::string>& problems) {
  std::vector<at::Tensor> parts;
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    const auto name = [&] { return experts == 1 ? key : detail::concat(key, " of expert ", expert); };
    const auto found = factors.find(expert);
    if (found == factors.end()) {
      problems.push_back("missing: " + name());
      continue;
    }
    const at::Tensor& part = found->second;
    if (part.dim() != 2 || part.size(axis) != share ||
        (!parts.empty() && part.size(1 - axis) != parts[0].size(1 - axis))) {
      problems.push_back(detail::concat(name(), ": expected a matrix with ", share, axis == 0 ? " rows" : " columns",
                                        " (r / experts), found shape ", part.sizes()));
      continue;
    }
    parts.push_back(part);
  }
  for (const auto& [expert, part] : factors) {
    if (expert >= experts) {
      problems.push_back(detail::concat("unexpected: ", key, " of expert ", expert, " (expert_num is ", experts, ")"));
    }
  }
  return static_cast<std::int64_t>(parts.size()) == experts ? at::cat(parts, axis).contiguous() : at::Tensor();
}

/// `matrix` with rows or columns of zeros behind, up to `size` along `axis`.
at::Tensor padded(const at::Tensor& matrix, std::int64_t axis, std::int64_t size) {
  if (matrix.size(axis) == size) {
    return matrix;
  }
  auto shape = matrix.sizes().vec();
  shape[axis] = size - matrix.size(axis);
  return at::cat({matrix, at::zeros(shape, matrix.options())}, axis).contiguous();
}

/// Gives every factor the rank of the largest. The file backs that rank for one linear; the others' zeros are bounded.
void pad_to_rank(Tensors& ours, std::int64_t rank, const std::string& origin) {
  constexpr double kMostPadding = 16.0;
  double stored = 1 << 20;
  double wanted = 0.0;
  for (const auto& [name, tensor] : ours) {
    if (name.ends_with(".A") || name.ends_with(".B")) {
      stored += static_cast<double>(tensor.numel());
      wanted += static_cast<double>(rank) * static_cast<double>(tensor.size(name.ends_with(".A") ? 1 : 0));
    }
  }
  MOELORA_CHECK(wanted <= kMostPadding * stored, origin, ": with its largest rank, ", rank, ", for every linear the ",
                "adapter would be more than ", kMostPadding, " times as large; its ranks differ too much to be read");
  for (auto& [name, tensor] : ours) {
    if (name.ends_with(".A") || name.ends_with(".B")) {
      tensor = padded(tensor, name.ends_with(".A") ? 0 : 1, rank);
    }
  }
}

/// One rank and one scale for all linears: the largest rank, and the scale of linears that no pattern names, if there
/// is one.
void settle_rank_and_alpha(const ForeignConfig& foreign, const ForeignTensors& sorted, MoeLoraConfig& config) {
  if (foreign.rank_pattern.empty() && foreign.alpha_pattern.empty()) {
    return;
  }
  std::vector<std::string> names;
  std::optional<double> scaling;
  std::int64_t rank = 0;
  for (const auto& [linear, found] : sorted.linears) {
    names.push_back(linear);
    rank = std::max(rank, foreign.rank_of(linear));
    if (!scaling || !foreign.has_own_scaling(linear)) {
      scaling = foreign.scaling_of(linear);
    }
  }
  for (const auto& [key, pattern] :
       {std::pair{"rank_pattern", &foreign.rank_pattern}, {"alpha_pattern", &foreign.alpha_pattern}}) {
    for (const std::string& entry : pattern->keys_without_match(names)) {
      log::warning(detail::concat(key, ": '", entry, "' matches no adapted linear and is left out, as in PEFT"));
    }
  }
  if (*scaling > 0 && (*scaling != config.scaling() || rank != config.rank)) {
    config.alpha = *scaling * static_cast<double>(rank);
  }
  config.rank = rank;
}

/// Whether every expert's B · A is zero: |B A|² = Σ (BᵀB ∘ A Aᵀ).
bool changes_nothing(const at::Tensor& A, const at::Tensor& B, std::int64_t experts) {
  const std::int64_t share = A.size(0) / experts;
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    const at::Tensor a = A.narrow(0, expert * share, share).to(at::kDouble);
    const at::Tensor b = B.narrow(1, expert * share, share).to(at::kDouble);
    if ((b.t().mm(b) * a.mm(a.t())).sum().item<double>() != 0.0) {
      return false;
    }
  }
  return true;
}

void warn_of_zero_updates(const Tensors& ours, const ForeignTensors& sorted, const MoeLoraConfig& config) {
  std::vector<std::string> zero;
  for (const auto& [linear, found] : sorted.linears) {
    if (changes_nothing(ours.at("linears." + linear + ".A"), ours.at("linears." + linear + ".B"), config.num_experts)) {
      zero.push_back(linear);
    }
  }
  if (zero.size() == sorted.linears.size()) {
    log::warning(sorted.origin +
                 " changes nothing: the update B · A of every linear is zero. It was never trained, or " +
                 "was saved before its values were gathered");
  } else if (!zero.empty()) {
    log::warning(detail::concat(sorted.origin, " changes nothing in ", zero.size(), " of its ", sorted.linears.size(),
                                " linears, whose update B · A is zero: ", io::in_a_row(zero)));
  }
}

/// The gate's two tensors under our names. Their shapes are checked on filling.
void keep_gate(const at::Tensor& embedding, const at::Tensor& gate, const std::string& where, const std::string& target,
               Tensors& ours, std::vector<std::string>& problems) {
  if (embedding.defined() && gate.defined()) {
    ours.emplace(target + "task_embedding", embedding);
    ours.emplace(target + "weight", gate);
    return;
  }
  if (!embedding.defined()) {
    problems.push_back("missing: " + where + "lora_task_embedding.weight");
  }
  if (!gate.defined()) {
    problems.push_back("missing: " + where + "lora_gate.GateL.weight");
  }
}

Tensors our_tensors(const ForeignConfig& foreign, ForeignTensors& sorted, const MoeLoraConfig& config, double scaling,
                    bool moelora) {
  Tensors ours;
  std::size_t unused = 0;
  const bool gated = moelora && config.num_experts > 1;
  for (const auto& [linear, found] : sorted.linears) {
    const std::string where = foreign_prefix(linear);
    const std::int64_t share = moelora ? config.rank / config.num_experts : foreign.rank_of(linear);
    const at::Tensor A = stack_factors(found.A, config.num_experts, share, 0, where + "lora_A", sorted.problems);
    at::Tensor B = stack_factors(found.B, config.num_experts, share, 1, where + "lora_B", sorted.problems);
    if (A.defined() && B.defined()) {
      if (const double factor = moelora ? 1.0 : foreign.scaling_of(linear) / scaling; factor != 1.0) {
        B = (B.to(at::kDouble) * factor).to(at::kFloat);
      }
      ours.emplace("linears." + linear + ".A", A);
      ours.emplace("linears." + linear + ".B", B);
    }
    if (gated && config.gate.per_linear) {
      keep_gate(found.task_embedding, found.gate, where, "gates." + linear + ".", ours, sorted.problems);
    } else {
      unused += found.task_embedding.defined() || found.gate.defined() ? 1 : 0;
    }
  }
  if (gated && !config.gate.per_linear) {
    keep_gate(sorted.task_embedding, sorted.gate, "", "gate.", ours, sorted.problems);
  }
  if (unused > 0) {
    log::info(detail::concat("ignored the task embedding and gate of ", unused,
                             " linears: the checkpoint's shared gate is in use (its own training never read them)"));
  }
  return ours;
}

TaskNames foreign_tasks(const ForeignConfig& foreign, const ForeignOptions& options, bool moelora) {
  auto names = options.task_names.empty() ? foreign.task_names : options.task_names;
  if (names.empty()) {
    for (std::int64_t task = 1; moelora && task <= foreign.tasks; ++task) {
      names.push_back("task" + std::to_string(task));
    }
    if (!moelora) {
      names.push_back("default");
    }
  }
  MOELORA_CHECK(static_cast<std::int64_t>(names.size()) == foreign.tasks, "expected the names of the checkpoint's ",
                foreign.tasks, " tasks, in the order of their ids, found ", names.size(), " names; list them all");
  return TaskNames(std::move(names));
}

/// Before anything is made for each expert and task that the configuration claims.
void check_counts(const ForeignConfig& foreign, const ForeignTensors& sorted) {
  std::int64_t count = 1;
  std::int64_t largest = 4096;  // without a gate the tasks leave no trace in the tensors
  const auto note = [&](const at::Tensor& tensor) {
    if (tensor.defined()) {
      ++count;
      for (const std::int64_t size : tensor.sizes()) {
        largest = std::max(largest, size);
      }
    }
  };
  note(sorted.task_embedding);
  note(sorted.gate);
  for (const auto& [name, linear] : sorted.linears) {
    note(linear.task_embedding);
    note(linear.gate);
    for (const auto* factors : {&linear.A, &linear.B}) {
      for (const auto& [expert, factor] : *factors) {
        note(factor);
      }
    }
  }
  MOELORA_CHECK(foreign.config.num_experts <= count, sorted.origin, " holds ", count - 1,
                " tensors of linears and gates, fewer than the ", foreign.config.num_experts,
                " experts (expert_num) of its adapter_config.json; copy the file that belongs to it");
  MOELORA_CHECK(foreign.tasks <= largest, sorted.origin, " holds no task embedding of the ", foreign.tasks,
                " tasks (task_num) of its adapter_config.json; copy the file that belongs to it");
}

/// Names that have `model.` in front of the base's own (a Lightning module's attribute) lose it.
void adopt_names(ForeignTensors& sorted, const std::set<std::string>& linears) {
  constexpr std::string_view kAttribute = "model.";
  const auto all = [&](auto&& holds) { return std::all_of(sorted.linears.begin(), sorted.linears.end(), holds); };
  while (
      all([&](const auto& entry) { return !linears.contains(entry.first) && entry.first.starts_with(kAttribute); })) {
    std::map<std::string, ForeignLinear> renamed;
    for (auto& [name, linear] : sorted.linears) {
      renamed.emplace(name.substr(kAttribute.size()), std::move(linear));
    }
    sorted.linears = std::move(renamed);
  }
}

std::set<std::string> linears_of(torch::nn::Module& base) {
  std::set<std::string> names;
  for (const auto& module : base.named_modules("", /*include_self=*/false)) {
    if (std::dynamic_pointer_cast<nn::LinearImpl>(module.value())) {
      names.insert(module.key());
    }
  }
  return names;
}

void check_linears(const ForeignTensors& sorted, const std::set<std::string>& linears) {
  std::vector<std::string> foreign;
  for (const auto& [name, linear] : sorted.linears) {
    if (!linears.contains(name)) {
      foreign.push_back(name);
    }
  }
  MOELORA_CHECK(foreign.empty(), sorted.origin, " adapts ", foreign.size(), " of ", sorted.linears.size(),
                " linears that the base does not have: ", io::in_a_row(foreign),
                "; nearest names:", io::found_beside_expected(foreign, {linears.begin(), linears.end()}),
                "\nload it on the model that it was trained on");
}

/// Linears of the base that the targets name must be in the file.
void check_none_missing(const ForeignTensors& sorted, torch::nn::Module& base,
                        const std::vector<std::string>& targets) {
  const std::vector<TargetPattern> patterns(targets.begin(), targets.end());
  std::vector<std::string> missing;
  for (const std::string& linear : adaptable_linears(base)) {
    if (!sorted.linears.contains(linear) &&
        std::any_of(patterns.begin(), patterns.end(), [&](const auto& pattern) { return pattern.matches(linear); })) {
      missing.push_back("missing: linears." + linear + ".A and .B");
    }
  }
  MOELORA_CHECK(missing.empty(), sorted.origin, " lacks linears that its target_modules name:", listed(missing, 5),
                "\ncopy the adapter again from where it was written");
}

/// The entries of target_modules that name something; PEFT passes over the others.
std::vector<std::string> targets_that_match(const ForeignConfig& foreign, torch::nn::Module& base,
                                            const ForeignTensors& sorted) {
  if (foreign.targets.empty()) {
    std::vector<std::string> names;
    for (const auto& [linear, found] : sorted.linears) {
      names.push_back(linear);
    }
    return names;
  }
  if (!foreign.targets_are_names) {
    return foreign.targets;
  }
  const auto modules = base.named_modules("", /*include_self=*/false);
  std::vector<std::string> matching;
  std::vector<std::string> others;
  for (const std::string& target : foreign.targets) {
    const TargetPattern pattern(target);
    const bool found =
        std::any_of(modules.begin(), modules.end(), [&](const auto& module) { return pattern.matches(module.key()); });
    (found ? matching : others).push_back(target);
  }
  const std::string linears = shown_linears(adaptable_linears(base));
  MOELORA_CHECK(!matching.empty(), "target_modules (", io::in_a_row(foreign.targets),
                ") matches no module; linears that ", "accept an adapter: ", linears);
  for (const std::string& target : others) {
    log::warning("target_modules: '" + target + "' matches no module and is left out, as in PEFT; the rest is loaded " +
                 "(linears that accept an adapter: " + linears + ")");
  }
  return matching;
}

}  // namespace

std::string foreign_prefix(const std::string& linear) { return std::string(kPrefix) + linear + "."; }

ForeignFormat detect_foreign(const fs::path& folder) {
  const fs::path path = folder / "adapter_config.json";
  if (!fs::is_regular_file(path)) {
    return ForeignFormat::none;
  }
  const auto json = io::read_json_file(path);
  const auto type = json.is_object() && json.contains("peft_type") ? json["peft_type"] : nlohmann::ordered_json();
  if (type == "LORA") {
    return ForeignFormat::peft;
  }
  return type == "MMOELORA" || type == "MMOELORAS" ? ForeignFormat::moelora_peft : ForeignFormat::none;
}

Adapter load_foreign_adapter(torch::nn::Module& base, const fs::path& folder, const ForeignOptions& options,
                             const std::string& name) {
  return load_foreign_adapter([&](const std::vector<ForeignShape>&) -> torch::nn::Module& { return base; }, folder,
                              options, name);
}

Adapter load_foreign_adapter(const BaseForShapes& base_for, const fs::path& folder, const ForeignOptions& options,
                             const std::string& name) {
  ForeignConfig foreign = read_foreign_config(folder);
  const bool moelora = detect_foreign(folder) == ForeignFormat::moelora_peft;
  MOELORA_CHECK(moelora || !options.per_linear, "a PEFT LoRA has no gates; load it without per_linear");
  MoeLoraConfig config = foreign.config;
  config.gate.per_linear = moelora && (options.per_linear || foreign.gate_in_every_linear);

  ForeignTensors sorted = read_foreign_tensors(folder, moelora);
  check_counts(foreign, sorted);
  TaskNames tasks = foreign_tasks(foreign, options, moelora);
  MOELORA_CHECK(!sorted.linears.empty(), sorted.origin, " holds no factors of any linear", listed(sorted.problems),
                "\nexpected keys as ", foreign_prefix("<linear>"), moelora ? "lora_A.loraA.0.weight" : "lora_A.weight");
  torch::nn::Module& base = base_for(sorted.shapes());
  const std::set<std::string> linears = linears_of(base);
  adopt_names(sorted, linears);
  config.targets.clear();
  for (const auto& [linear, found] : sorted.linears) {
    config.targets.push_back(linear);
  }
  config.validate();
  settle_rank_and_alpha(foreign, sorted, config);
  Tensors ours = our_tensors(foreign, sorted, config, config.scaling(), moelora);
  MOELORA_CHECK(sorted.problems.empty(), sorted.origin,
                " does not fit its adapter_config.json:", listed(sorted.problems),
                "\ncopy the adapter again from where it was written");
  check_linears(sorted, linears);
  config.targets = targets_that_match(foreign, base, sorted);
  check_none_missing(sorted, base, config.targets);
  pad_to_rank(ours, config.rank, sorted.origin);
  Adapter adapter = inject_filled(base, config, std::move(tasks), name, ours, sorted.origin);
  warn_of_zero_updates(ours, sorted, config);
  return adapter;
}

}  // namespace moelora
