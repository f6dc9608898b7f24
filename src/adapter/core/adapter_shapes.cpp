#include "adapter/core/adapter_shapes.h"

#include "moelora/adapter/delta_kind.h"
#include "moelora/nn/prefix_host.h"

namespace moelora {
namespace {

constexpr std::string_view kLinears = "linears.";

void add_gate_shapes(const std::vector<NamedLinear>& targets, const MoeLoraConfig& config, std::int64_t num_tasks,
                     AdapterShapes& shapes) {
  const GateConfig& gate = config.gate;
  if (config.routing != Routing::task || config.num_experts == 1 || targets.empty()) {
    return;
  }
  for (std::size_t i = 0; i < (gate.per_linear ? targets.size() : 1); ++i) {
    const std::string prefix = gate.per_linear ? "gates." + targets[i].first + "." : "gate.";
    shapes.push_back({prefix + "task_embedding", {gate.reserved_rows + num_tasks, gate.task_embedding_dim}});
    shapes.push_back({prefix + "weight", {config.num_experts, gate.task_embedding_dim}});
  }
}

void add_prefix_shapes(const nn::PrefixShape& host, const PrefixConfig& prefix, AdapterShapes& shapes) {
  const auto hidden = host.hidden();
  const auto width = host.width();
  shapes.push_back({"prefix.embedding", {prefix.length, prefix.projection ? hidden : width}});
  if (prefix.projection) {
    shapes.push_back({"prefix.hidden.weight", {hidden, hidden}});
    shapes.push_back({"prefix.hidden.bias", {hidden}});
    shapes.push_back({"prefix.output.weight", {width, hidden}});
    shapes.push_back({"prefix.output.bias", {width}});
  }
}

}  // namespace

std::string linear_tensor_name(const std::string& linear, const std::string& tensor) {
  return std::string(kLinears) + linear + "." + tensor;
}

std::optional<std::pair<std::string, std::string>> linear_tensor_place(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  if (!name.starts_with(kLinears) || dot <= kLinears.size()) {
    return std::nullopt;
  }
  return std::pair{name.substr(kLinears.size(), dot - kLinears.size()), name.substr(dot + 1)};
}

AdapterShapes adapter_shapes(const std::vector<NamedLinear>& targets, const torch::nn::Module& base,
                             const MoeLoraConfig& config, std::int64_t num_tasks) {
  AdapterShapes shapes;
  const DeltaKind& kind = delta_kind(config.delta);
  for (const auto& [name, linear] : targets) {
    for (auto& [tensor, shape] : kind.tensors(config, {linear->in_features(), linear->out_features()})) {
      shapes.push_back({linear_tensor_name(name, tensor), std::move(shape)});
    }
  }
  add_gate_shapes(targets, config, num_tasks, shapes);
  if (const auto* host = dynamic_cast<const nn::PrefixHost*>(&base); host != nullptr && config.prefix) {
    add_prefix_shapes(host->prefix_shape(), *config.prefix, shapes);
  }
  return shapes;
}

AdapterShapes adapter_shapes(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks) {
  return adapter_shapes(find_targets(base, config.targets), base, config, num_tasks);
}

}  // namespace moelora
