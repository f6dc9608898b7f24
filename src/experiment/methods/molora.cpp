// MoLoRA (Zadouri et al., arXiv 2309.05444): a router for each linear over its own input, for every token.

#include "experiment/methods/registry.h"

namespace moelora::experiment {

std::vector<MethodPtr> molora_methods() {
  return {std::make_shared<TrainedMethod>(
      "molora", "MoLoRA", "a token router for each linear over its own input, with a balancing loss",
      [](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
        config.adapter.routing = Routing::token;
        config.adapter.router.balance_loss = experiment.balance_loss;
      },
      "routed by token: no single matrix holds the update")};
}

}  // namespace moelora::experiment
