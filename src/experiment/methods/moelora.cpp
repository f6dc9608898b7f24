// MOELoRA (arXiv 2310.18339) and what the paper takes away from it.

#include "experiment/methods/registry.h"

namespace moelora::experiment {

std::vector<MethodPtr> moelora_methods() {
  using Config = train::TrainConfig;
  return {std::make_shared<TrainedMethod>("moelora-d", "MOELoRA (D)",
                                          "dense gate over the task's embedding, one for the model",
                                          [](const ExperimentConfig&, std::int64_t, Config&) {}),
          std::make_shared<TrainedMethod>("moelora-s", "MOELoRA (S)", "the gate keeps the top_k experts",
                                          [](const ExperimentConfig& experiment, std::int64_t, Config& config) {
                                            config.adapter.gate.top_k = experiment.sparse_top_k;
                                          }),
          std::make_shared<TrainedMethod>(
              "moelora-m", "MOELoRA (M)", "a task embedding and gate for each linear",
              [](const ExperimentConfig&, std::int64_t, Config& config) { config.adapter.gate.per_linear = true; }),
          std::make_shared<TrainedMethod>(
              "moelora-no-gate", "w/o gate", "all experts weigh 1/N for every task",
              [](const ExperimentConfig&, std::int64_t, Config& config) { config.adapter.routing = Routing::uniform; }),
          std::make_shared<TrainedMethod>("moelora-d-by-task", "MOELoRA (D), batches of one task",
                                          "as MOELoRA (D), each batch holds one task instead of a random mix",
                                          [](const ExperimentConfig&, std::int64_t, Config& config) {
                                            config.training.batching = data::Batching::by_task;
                                          })};
}

}  // namespace moelora::experiment
