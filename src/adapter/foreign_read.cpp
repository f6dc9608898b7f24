#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "adapter/filling.h"
#include "adapter/foreign_config.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "moelora/io/torch_checkpoint.h"
#include "moelora/log/log.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

constexpr std::string_view kPrefix = "base_model.model.";

/// What a checkpoint holds for one linear. PEFT: factor 0 is the whole A or B.
struct ForeignLinear {
  std::map<std::int64_t, at::Tensor> A;
  std::map<std::int64_t, at::Tensor> B;
  at::Tensor task_embedding;
  at::Tensor gate;
};

struct ForeignTensors {
  std::map<std::string, ForeignLinear> linears;
  at::Tensor task_embedding;
  at::Tensor gate;
  std::vector<std::string> problems;
};

Tensors read_foreign_tensors(const fs::path& folder, std::string& origin) {
  const fs::path safetensors = folder / "adapter_model.safetensors";
  const fs::path pickle = folder / "adapter_model.bin";
  MOELORA_CHECK(fs::exists(safetensors) || fs::exists(pickle),
                "expected adapter_model.safetensors or adapter_model.bin in ", folder.string(),
                ", found neither; copy the whole adapter folder");
  const bool mapped = fs::exists(safetensors);
  origin = (mapped ? safetensors : pickle).string();
  return mapped ? io::load_safetensors(safetensors) : io::load_torch_checkpoint(pickle);
}

/// Cuts `suffix` off the end of `text`.
bool take_suffix(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) {
    return false;
  }
  text.remove_suffix(suffix.size());
  return true;
}

/// "<linear>.lora_A.loraA.3" → linear, 3.
std::optional<std::int64_t> take_expert(std::string_view& text, std::string_view middle) {
  const auto dot = text.rfind('.');
  if (dot == text.npos) {
    return std::nullopt;
  }
  const auto number = text.substr(dot + 1);
  std::int64_t expert = -1;
  const auto [stop, failure] = std::from_chars(number.data(), number.data() + number.size(), expert);
  auto rest = text.substr(0, dot);
  if (failure != std::errc() || stop != number.data() + number.size() || expert < 0 || !take_suffix(rest, middle)) {
    return std::nullopt;
  }
  text = rest;
  return expert;
}

/// Stores a factor; the reference writes each twice (`.weight` and `.mlp.weight` are one parameter there).
void keep_factor(std::map<std::int64_t, at::Tensor>& factors, std::int64_t expert, const std::string& key,
                 const at::Tensor& tensor, std::vector<std::string>& problems) {
  const auto [place, fresh] = factors.emplace(expert, tensor);
  if (!fresh && !(place->second.sizes() == tensor.sizes() && at::equal(place->second, tensor))) {
    problems.push_back(key + ": differs from its alias (.weight and .mlp.weight are one tensor); the file is damaged");
  }
}

bool sort_moelora_key(const std::string& key, const at::Tensor& tensor, ForeignTensors& sorted) {
  if (key == "lora_task_embedding.weight") {
    sorted.task_embedding = tensor;
    return true;
  }
  if (key == "lora_gate.GateL.weight") {
    sorted.gate = tensor;
    return true;
  }
  std::string_view name = key;
  if (!name.starts_with(kPrefix)) {
    return false;
  }
  name.remove_prefix(kPrefix.size());
  if (take_suffix(name, ".lora_task_embedding.weight")) {
    sorted.linears[std::string(name)].task_embedding = tensor;
    return true;
  }
  if (take_suffix(name, ".lora_gate.GateL.weight")) {
    sorted.linears[std::string(name)].gate = tensor;
    return true;
  }
  if (!take_suffix(name, ".mlp.weight") && !take_suffix(name, ".weight")) {
    return false;
  }
  if (const auto expert = take_expert(name, ".lora_A.loraA")) {
    keep_factor(sorted.linears[std::string(name)].A, *expert, key, tensor, sorted.problems);
    return true;
  }
  if (const auto expert = take_expert(name, ".lora_B.loraB")) {
    keep_factor(sorted.linears[std::string(name)].B, *expert, key, tensor, sorted.problems);
    return true;
  }
  return false;
}

bool sort_peft_key(const std::string& key, const at::Tensor& tensor, ForeignTensors& sorted) {
  std::string_view name = key;
  if (!name.starts_with(kPrefix)) {
    return false;
  }
  name.remove_prefix(kPrefix.size());
  if (take_suffix(name, ".lora_A.weight")) {
    sorted.linears[std::string(name)].A[0] = tensor;
    return true;
  }
  if (take_suffix(name, ".lora_B.weight")) {
    sorted.linears[std::string(name)].B[0] = tensor;
    return true;
  }
  return false;
}

ForeignTensors sort_tensors(const Tensors& tensors, bool moelora) {
  ForeignTensors sorted;
  for (const auto& [key, tensor] : tensors) {
    if (!at::isFloatingType(tensor.scalar_type())) {
      sorted.problems.push_back(key + ": expected floating-point values, found " + c10::toString(tensor.scalar_type()));
      continue;
    }
    const at::Tensor value = tensor.to(at::kFloat);
    if (!(moelora ? sort_moelora_key(key, value, sorted) : sort_peft_key(key, value, sorted))) {
      sorted.problems.push_back("unknown key " + key);
    }
  }
  return sorted;
}

/// Stacks the experts' factors: A along its rows, B along its columns. `axis` is the one of length rank / N.
void stack_factors(const std::map<std::int64_t, at::Tensor>& factors, const MoeLoraConfig& config, std::int64_t axis,
                   const std::string& key, const std::string& target, Tensors& ours,
                   std::vector<std::string>& problems) {
  const std::int64_t share = config.rank / config.num_experts;
  std::vector<at::Tensor> parts;
  for (std::int64_t expert = 0; expert < config.num_experts; ++expert) {
    const auto name = [&] { return config.num_experts == 1 ? key : detail::concat(key, " of expert ", expert); };
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
    if (expert >= config.num_experts) {
      problems.push_back(
          detail::concat("surplus: ", key, " of expert ", expert, " (expert_num is ", config.num_experts, ")"));
    }
  }
  if (static_cast<std::int64_t>(parts.size()) == config.num_experts) {
    ours.emplace(target, at::cat(parts, axis).contiguous());
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

Tensors our_tensors(ForeignTensors& sorted, const MoeLoraConfig& config, bool moelora) {
  Tensors ours;
  std::size_t unused = 0;
  const bool gated = moelora && config.num_experts > 1;
  for (const auto& [linear, found] : sorted.linears) {
    const std::string where = foreign_prefix(linear);
    stack_factors(found.A, config, 0, where + "lora_A", "linears." + linear + ".A", ours, sorted.problems);
    stack_factors(found.B, config, 1, where + "lora_B", "linears." + linear + ".B", ours, sorted.problems);
    if (gated && config.per_linear) {
      keep_gate(found.task_embedding, found.gate, where, "gates." + linear + ".", ours, sorted.problems);
    } else {
      unused += found.task_embedding.defined() || found.gate.defined() ? 1 : 0;
    }
  }
  if (gated && !config.per_linear) {
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
void check_counts(const ForeignConfig& foreign, const Tensors& tensors, const std::string& origin) {
  // Without a gate the tasks leave no trace in the tensors.
  std::int64_t largest = 4096;
  for (const auto& [key, tensor] : tensors) {
    for (const std::int64_t size : tensor.sizes()) {
      largest = std::max(largest, size);
    }
  }
  MOELORA_CHECK(static_cast<std::uint64_t>(foreign.config.num_experts) <= tensors.size() + 1, origin, " holds ",
                tensors.size(), " tensors, fewer than the ", foreign.config.num_experts,
                " experts (expert_num) of its adapter_config.json; copy the file that belongs to it");
  MOELORA_CHECK(foreign.tasks <= largest, origin, " holds no task embedding of the ", foreign.tasks,
                " tasks (task_num) of its adapter_config.json; copy the file that belongs to it");
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
  ForeignConfig foreign = read_foreign_config(folder);
  const bool moelora = detect_foreign(folder) == ForeignFormat::moelora_peft;
  MOELORA_CHECK(moelora || !options.per_linear, "a PEFT LoRA has no gates; load it without per_linear");
  MoeLoraConfig& config = foreign.config;
  config.per_linear = moelora && (options.per_linear || foreign.gate_in_every_linear);

  std::string origin;
  ForeignTensors sorted;
  {
    const Tensors tensors = read_foreign_tensors(folder, origin);
    check_counts(foreign, tensors, origin);
    sorted = sort_tensors(tensors, moelora);
  }
  TaskNames tasks = foreign_tasks(foreign, options, moelora);
  config.targets = foreign.targets;
  if (config.targets.empty()) {
    for (const auto& [linear, found] : sorted.linears) {
      config.targets.push_back(linear);
    }
  }
  MOELORA_CHECK(!sorted.linears.empty(), origin, " holds no factors of any linear", listed(sorted.problems));
  config.validate();
  const Tensors ours = our_tensors(sorted, config, moelora);
  MOELORA_CHECK(sorted.problems.empty(), origin, " does not fit its adapter_config.json:", listed(sorted.problems),
                "\ncopy the adapter again from where it was written");
  return inject_filled(base, config, std::move(tasks), name, ours, origin);
}

}  // namespace moelora
