#pragma once
// The files of this folder, by what they offer. A new method: a file beside these, its function here and in
// registry.cpp.

#include <vector>

#include "moelora/experiment/method.h"

namespace moelora::experiment {

std::vector<MethodPtr> base_methods();            ///< the base itself, in-context learning
std::vector<MethodPtr> p_tuning_methods();        ///< P-Tuning v2
std::vector<MethodPtr> lora_methods();            ///< LoRA: one for all, one for each task, task prompts
std::vector<MethodPtr> high_rank_lora_methods();  ///< LoRA of a mixture's parameter count, or of a chosen rank
std::vector<MethodPtr> composition_methods();     ///< task arithmetic, TIES, DARE
std::vector<MethodPtr> lorahub_methods();         ///< LoRAHub
std::vector<MethodPtr> molora_methods();          ///< MoLoRA
std::vector<MethodPtr> mtl_lora_methods();        ///< MTL-LoRA
std::vector<MethodPtr> moelora_methods();         ///< MOELoRA and its variants
std::vector<MethodPtr> full_methods();            ///< full fine-tuning

/// N = 1: plain LoRA.
inline void plain_lora(MoeLoraConfig& adapter) {
  adapter.num_experts = 1;
  adapter.routing = Routing::task;
  adapter.gate.top_k = 0;
}

/// A method that the trainer makes; they differ in their configuration alone.
class TrainedMethod : public Method {
 public:
  using Configure = std::function<void(const ExperimentConfig&, std::int64_t tasks, train::TrainConfig&)>;
  TrainedMethod(std::string key, std::string title, std::string note, Configure configure,
                std::string not_mergeable = {})
      : Method(std::move(key), std::move(title), std::move(note)),
        configure_(std::move(configure)),
        not_mergeable_(std::move(not_mergeable)) {}
  bool is_trained() const override { return true; }
  void configure(const ExperimentConfig& experiment, std::int64_t tasks, train::TrainConfig& config) const override {
    configure_(experiment, tasks, config);
  }
  std::string not_mergeable() const override { return not_mergeable_; }
  Product make(Workbench& bench) const override { return train_method(bench); }

 private:
  Configure configure_;
  std::string not_mergeable_;
};

/// A trained method with settings of its own, which other methods of the file may share.
template <typename Settings>
class TrainedMethodWith : public TrainedMethod {
 public:
  using TrainedMethod::TrainedMethod;
  std::shared_ptr<OwnSettings> own_settings() const override { return std::make_shared<Settings>(); }
};

}  // namespace moelora::experiment
