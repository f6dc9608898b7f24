// MTL-LoRA (Yang et al., arXiv 2410.09437): one LoRA for all tasks with a matrix of each task between A and B.

#include "experiment/methods/registry.h"

namespace moelora::experiment {

std::vector<MethodPtr> mtl_lora_methods() {
  return {std::make_shared<TrainedMethod>(
      "mtl-lora", "MTL-LoRA",
      "one LoRA of the total rank r with an r × r matrix of each task between A and B (the paper's with one B)",
      [](const ExperimentConfig&, std::int64_t tasks, train::TrainConfig& config) {
        config.adapter.delta = "mtl-lora";
        config.adapter.routing = Routing::single;
        config.adapter.num_experts = tasks;
        config.adapter.gate.top_k = 0;
      })};
}

}  // namespace moelora::experiment
