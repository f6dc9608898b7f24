// Full fine-tuning: every parameter of the base, the upper bound in cost.

#include "experiment/methods/registry.h"

namespace moelora::experiment {

std::vector<MethodPtr> full_methods() {
  return {std::make_shared<TrainedMethod>(
      "full", "Full fine-tuning", "all parameters of the base for all tasks",
      [](const ExperimentConfig&, std::int64_t, train::TrainConfig& config) { config.mode = train::Mode::full; },
      "there is no adapter: the trained model is one already")};
}

}  // namespace moelora::experiment
