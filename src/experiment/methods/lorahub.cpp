// LoRAHub (adapter/lorahub.h): for each task, weights of all single LoRAs found without gradients from a few of its
// records in the validation part, which no LoRA was trained on.

#include "moelora/adapter/lorahub.h"

#include <algorithm>
#include <chrono>

#include "experiment/methods/lorahub_settings.h"
#include "experiment/methods/registry.h"
#include "experiment/methods/single_loras.h"
#include "moelora/data/split.h"
#include "moelora/train/run_data.h"
#include "moelora/train/step.h"

namespace moelora::experiment {
namespace {

class LoraHub : public Method {
 public:
  using Method::Method;
  std::vector<std::string> needs() const override { return {kSingleRow}; }
  bool needs_validation() const override { return true; }
  std::string remark() const override { return kCompositionRemark; }
  std::string missing() const override { return lorahub_missing(); }
  std::shared_ptr<OwnSettings> own_settings() const override { return std::make_shared<LoraHubSettings>(); }

  Product make(Workbench& bench) const override {
    const auto begin = std::chrono::steady_clock::now();
    const SingleLoras loras = read_single_loras(bench);
    const auto& settings = bench.experiment.own.of<LoraHubSettings>();
    Product product;
    std::vector<std::vector<double>> found;
    Adapter adapter{nullptr};
    for (const std::string& task : bench.tasks.names()) {
      bench.status("searching weights of " + task, static_cast<std::int64_t>(found.size()), bench.tasks.size());
      const auto examples =
          train::encode_examples(data::select_few(data::select_tasks(bench.validation, {task}, {}), settings.examples),
                                 bench.tasks, *bench.base.tokenizer, bench.config.data.encode, task);
      std::vector<const data::Example*> shown;
      for (const data::Example& example : examples) {
        shown.push_back(&example);
      }
      const auto loss = [&](const std::vector<double>& weights) {
        bench.stop_if_asked();
        apply_to_all(bench, loras, weights, adapter);
        return train::evaluate_losses(*bench.base.model, adapter.get(), shown, bench.config.training.micro_batch_tokens)
            .mean();
      };
      LoraHubOptions options;
      options.evaluations = settings.evaluations;
      options.seed = bench.seed;
      const LoraHubResult result = search_weights(loras.tasks.size(), loss, options);
      found.push_back(result.weights);
      product.details["weights"][task] = result.weights;
    }
    eject(adapter);
    product.adapter = by_task(bench, loras, found);
    for (const auto& updates : loras.of_task) {
      for (const nn::LowRank& update : updates) {
        product.trained_parameters += update.numel();
      }
    }
    save_product(bench, *product.adapter, product.details);
    product.training_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return product;
  }

 protected:
  /// Makes `adapter` (null at first) the composition with these weights, for every task alike.
  virtual void apply_to_all(Workbench& bench, const SingleLoras& loras, const std::vector<double>& weights,
                            Adapter& adapter) const = 0;
  /// The adapter with the composition of each task, weights [K][K].
  virtual Adapter by_task(Workbench& bench, const SingleLoras& loras,
                          const std::vector<std::vector<double>>& weights) const = 0;
};

class LoraHubOnFactors : public LoraHub {
 public:
  LoraHubOnFactors()
      : LoraHub("lorahub", "LoRAHub",
                "single LoRAs composed on (A, B) as its authors do, weights from a few examples") {}

 protected:
  void apply_to_all(Workbench& bench, const SingleLoras& loras, const std::vector<double>& weights,
                    Adapter& adapter) const override {
    const std::vector<std::vector<nn::LowRank>> update{composed_factors(loras, weights)};
    if (adapter) {
      fill_factors(*adapter, update);
    } else {
      adapter = inject_factors(bench, loras, update);
    }
  }
  Adapter by_task(Workbench& bench, const SingleLoras& loras,
                  const std::vector<std::vector<double>>& weights) const override {
    std::vector<std::vector<nn::LowRank>> updates;
    for (const auto& of_task : weights) {
      updates.push_back(composed_factors(loras, of_task));
    }
    return inject_factors(bench, loras, updates);
  }
};

class LoraHubOnUpdates : public LoraHub {
 public:
  LoraHubOnUpdates() : LoraHub("lorahub-update", "LoRAHub on ΔW", "the same, composed on the updates B A") {}

 protected:
  void apply_to_all(Workbench& bench, const SingleLoras& loras, const std::vector<double>& weights,
                    Adapter& adapter) const override {
    std::vector<std::vector<double>> table(static_cast<std::size_t>(bench.tasks.size()), weights);
    if (adapter) {
      adapter->set_table(std::move(table));
    } else {
      adapter = inject_table(bench, loras, std::move(table));
    }
  }
  Adapter by_task(Workbench& bench, const SingleLoras& loras,
                  const std::vector<std::vector<double>>& weights) const override {
    return inject_table(bench, loras, weights);
  }
};

}  // namespace

std::vector<MethodPtr> lorahub_methods() {
  return {std::make_shared<LoraHubOnFactors>(), std::make_shared<LoraHubOnUpdates>()};
}

}  // namespace moelora::experiment
