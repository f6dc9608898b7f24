#include "moelora/adapter/parameter_count.h"

#include "adapter/core/adapter_shapes.h"

namespace moelora {
namespace {

std::int64_t parameters_in(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : module.parameters()) {
    count += parameter.numel();
  }
  return count;
}

}  // namespace

ParameterCount count_parameters(const AdapterImpl& adapter) {
  ParameterCount count;
  count.linears = static_cast<std::int64_t>(adapter.linears().size());
  for (const auto& linear : adapter.linears()) {
    const std::int64_t routing = linear.delta->routing_parameter_count();
    count.updates += linear.delta->parameter_count() - routing;
    count.gates += routing;
  }
  for (const TaskGate& gate : adapter.gates()) {
    count.gates += parameters_in(*gate);
  }
  if (adapter.prefix_encoder()) {
    count.prefix = parameters_in(*adapter.prefix_encoder());
  }
  if (adapter.saved_modules()) {
    count.saved = parameters_in(*adapter.saved_modules());
  }
  return count;
}

std::int64_t planned_parameter_count(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks) {
  std::int64_t count = 0;
  for (const ExpectedTensor& tensor : adapter_shapes(base, config, num_tasks)) {
    std::int64_t elements = 1;
    for (const std::int64_t size : tensor.shape) {
      elements *= size;
    }
    count += elements;
  }
  return count;
}

}  // namespace moelora
