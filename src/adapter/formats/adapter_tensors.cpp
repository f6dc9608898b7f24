// The tensors of an adapter by name, and an adapter from such tensors.

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "adapter/formats/adapter_loading.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

const std::string kSavedModules = "modules_to_save.";

std::string shape_text(at::ScalarType dtype, at::IntArrayRef sizes) {
  return detail::concat(c10::toString(dtype), " ", sizes);
}

void check_tensors(const AdapterShapes& expected, const std::map<std::string, at::Tensor>& tensors,
                   const std::string& origin) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  for (const auto& [name, shape, dtype] : expected) {
    known.insert(name);
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      problems.push_back("missing: " + name + ", expected " + shape_text(dtype, shape));
    } else if (found->second.sizes() != at::IntArrayRef(shape) ||
               // A file holds everything as float32, a module's counters too.
               (found->second.scalar_type() != at::kFloat && found->second.scalar_type() != dtype)) {
      problems.push_back(name + ": expected " + shape_text(dtype, shape) + ", found " +
                         shape_text(found->second.scalar_type(), found->second.sizes()));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (!known.contains(name)) {
      problems.push_back("unexpected: " + name + " " + shape_text(tensor.scalar_type(), tensor.sizes()));
    }
  }
  MOELORA_CHECK(problems.empty(), origin, " does not fit the adapter's configuration and base:", listed(problems),
                "\nload it with the configuration and the base that it was made for");
}

}  // namespace

io::NamedTensors adapter_tensors(const AdapterImpl& adapter) {
  io::NamedTensors tensors;
  const auto& linears = adapter.linears();
  for (const auto& linear : linears) {
    for (const auto& [name, tensor] : linear.delta->tensors()) {
      tensors.emplace_back(linear_tensor_name(linear.name, name), tensor);
    }
  }
  const auto& gates = adapter.gates();
  const bool per_linear = adapter.config().gate.per_linear;
  TORCH_INTERNAL_ASSERT(gates.empty() || gates.size() == (per_linear ? linears.size() : 1));
  for (std::size_t i = 0; i < gates.size(); ++i) {
    const std::string prefix = per_linear ? "gates." + linears[i].name + "." : "gate.";
    tensors.emplace_back(prefix + "task_embedding", gates[i]->task_embedding);
    tensors.emplace_back(prefix + "weight", gates[i]->weight);
  }
  if (const auto& encoder = adapter.prefix_encoder()) {
    tensors.emplace_back("prefix.embedding", encoder->embedding);
    if (encoder->hidden_weight.defined()) {
      tensors.emplace_back("prefix.hidden.weight", encoder->hidden_weight);
      tensors.emplace_back("prefix.hidden.bias", encoder->hidden_bias);
      tensors.emplace_back("prefix.output.weight", encoder->output_weight);
      tensors.emplace_back("prefix.output.bias", encoder->output_bias);
    }
  }
  if (const auto& saved = adapter.saved_modules()) {
    for (const auto& value : saved->values()) {
      tensors.emplace_back(kSavedModules + value.name, saved->trained(value));
    }
  }
  return tensors;
}

bool is_routing_tensor(const std::string& name) {
  const auto place = linear_tensor_place(name);
  return name.starts_with("gate.") || name.starts_with("gates.") || (place && place->second == "router");
}

void fill_adapter(AdapterImpl& adapter, const std::map<std::string, at::Tensor>& tensors, const std::string& origin) {
  const auto parameters = adapter_tensors(adapter);
  AdapterShapes shapes;
  for (const auto& [name, parameter] : parameters) {
    shapes.push_back({name, parameter.sizes().vec(), parameter.scalar_type()});
  }
  check_tensors(shapes, tensors, origin);
  at::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    at::Tensor target = parameter;
    target.copy_(tensors.at(name));
  }
}

Adapter inject_filled(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name,
                      const std::map<std::string, at::Tensor>& tensors, const std::string& origin) {
  std::map<std::string, at::Tensor> own;  // modules_to_save are as large as in the base, and compared with it below
  std::copy_if(tensors.begin(), tensors.end(), std::inserter(own, own.end()),
               [](const auto& entry) { return !entry.first.starts_with(kSavedModules); });
  check_tensors(adapter_shapes(base, config, tasks.size()), own, origin);
  std::vector<std::pair<at::Tensor, bool>> trainable;
  for (const auto& parameter : base.parameters()) {
    trainable.emplace_back(parameter, parameter.requires_grad());
  }
  Adapter adapter = inject(base, config, std::move(tasks), name);
  try {
    fill_adapter(*adapter, tensors, origin);
  } catch (...) {
    eject(adapter);
    for (auto& [parameter, requires_grad] : trainable) {
      parameter.set_requires_grad(requires_grad);
    }
    throw;
  }
  return adapter;
}

}  // namespace moelora
