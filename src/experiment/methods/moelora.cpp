// MOELoRA (arXiv 2310.18339) and what the paper takes away from it.

#include "experiment/methods/registry.h"

namespace moelora::experiment {
namespace {

using train::TrainConfig;

/// A method with task gates.
class Gated : public TrainedMethod {
 public:
  using TrainedMethod::TrainedMethod;
  bool shows_expert_weights() const override { return true; }
};

class Dense : public Gated {
 public:
  Dense()
      : Gated("moelora-d", "MOELoRA (D)", "dense gate over the task's embedding, one for the model",
              [](const ExperimentConfig&, std::int64_t, TrainConfig&) {}) {}
  Role role() const override { return Role::baseline; }
  std::vector<SweptNumber> swept() const override {
    return {{"num_experts", [](const MoeLoraConfig& adapter) { return adapter.num_experts; },
             [](MoeLoraConfig& adapter, std::int64_t value) { adapter.num_experts = value; }},
            {"rank", [](const MoeLoraConfig& adapter) { return adapter.rank; },
             [](MoeLoraConfig& adapter, std::int64_t value) {
               // alpha / rank stays: a larger rank is no larger step.
               adapter.alpha *= static_cast<double>(value) / static_cast<double>(adapter.rank);
               adapter.rank = value;
             }}};
  }
};

class SparseSettings : public OwnSettings {
 public:
  std::int64_t top_k = 2;
  void fields(io::FieldVisitor& visit) override { visit({"sparse_top_k", "top_k of the method moelora-s"}, top_k); }
};

class Sparse : public Gated {
 public:
  Sparse()
      : Gated("moelora-s", "MOELoRA (S)", "the gate keeps the top_k experts",
              [](const ExperimentConfig& experiment, std::int64_t, TrainConfig& config) {
                config.adapter.gate.top_k = experiment.own.of<SparseSettings>().top_k;
              }) {}
  std::shared_ptr<OwnSettings> own_settings() const override { return std::make_shared<SparseSettings>(); }
  std::vector<SweptNumber> swept() const override {
    return {{"top_k", [](const MoeLoraConfig& adapter) { return adapter.gate.top_k; },
             [](MoeLoraConfig& adapter, std::int64_t value) { adapter.gate.top_k = value; }}};
  }
};

}  // namespace

std::vector<MethodPtr> moelora_methods() {
  return {std::make_shared<Dense>(), std::make_shared<Sparse>(),
          std::make_shared<Gated>("moelora-m", "MOELoRA (M)", "a task embedding and gate for each linear",
                                  [](const ExperimentConfig&, std::int64_t, TrainConfig& config) {
                                    config.adapter.gate.per_linear = true;
                                  }),
          std::make_shared<TrainedMethod>("moelora-no-gate", "w/o gate", "all experts weigh 1/N for every task",
                                          [](const ExperimentConfig&, std::int64_t, TrainConfig& config) {
                                            config.adapter.routing = Routing::uniform;
                                          }),
          std::make_shared<TrainedMethod>("moelora-d-by-task", "MOELoRA (D), batches of one task",
                                          "as MOELoRA (D), each batch holds one task instead of a random mix",
                                          [](const ExperimentConfig&, std::int64_t, TrainConfig& config) {
                                            config.training.batching = data::Batching::by_task;
                                          })};
}

}  // namespace moelora::experiment
