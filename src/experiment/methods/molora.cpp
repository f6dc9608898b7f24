// MoLoRA (Zadouri et al., arXiv 2309.05444): a router for each linear over its own input, for every token.

#include "experiment/methods/registry.h"

namespace moelora::experiment {
namespace {

class BalanceSettings : public OwnSettings {
 public:
  double weight = 0.01;
  void fields(io::FieldVisitor& visit) override {
    visit({"balance_loss", "weight of the balancing loss of the method molora"}, weight);
  }
};

}  // namespace

std::vector<MethodPtr> molora_methods() {
  return {std::make_shared<TrainedMethodWith<BalanceSettings>>(
      "molora", "MoLoRA", "a token router for each linear over its own input, with a balancing loss",
      [](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
        config.adapter.routing = Routing::token;
        config.adapter.router.balance_loss = experiment.own.of<BalanceSettings>().weight;
      },
      "routed by token: no single matrix holds the update")};
}

}  // namespace moelora::experiment
