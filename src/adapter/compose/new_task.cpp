#include "moelora/adapter/new_task.h"

#include <ATen/ATen.h>

#include "adapter/formats/adapter_loading.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

/// E with one more row, the mean of the tasks' rows; reserved rows belong to no task.
at::Tensor with_mean_row(const at::Tensor& embedding, std::int64_t reserved_rows) {
  const at::Tensor tasks = embedding.narrow(0, reserved_rows, embedding.size(0) - reserved_rows);
  return at::cat({embedding, tasks.mean(0, /*keepdim=*/true)});
}

}  // namespace

Adapter with_new_task(torch::nn::Module& base, const AdapterImpl& adapter, const std::string& task,
                      const std::string& name) {
  const MoeLoraConfig& config = adapter.config();
  MOELORA_CHECK(!adapter.gates().empty(), "a new task needs an adapter with a task gate, found routing \"",
                routing_name(config.routing), "\" with ", config.num_experts,
                config.num_experts == 1 ? " expert" : " experts",
                "; train one with routing \"task\" and two experts or more");
  MOELORA_CHECK(!adapter.tasks().contains(task), "expected a new task, found ", task, ", which the adapter '",
                adapter.adapter_name(), "' has already; give the new one another name, or train the adapter on it");
  at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [tensor_name, tensor] : adapter_tensors(adapter)) {
    const bool embedding = tensor_name.ends_with(".task_embedding");
    tensors.emplace(tensor_name, embedding ? with_mean_row(tensor, config.gate.reserved_rows) : tensor);
  }
  std::vector<std::string> names = adapter.tasks().names();
  names.push_back(task);
  return inject_filled(base, config, TaskNames(std::move(names)), name, tensors,
                       "adapter '" + adapter.adapter_name() + "'");
}

}  // namespace moelora
