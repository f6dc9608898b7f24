// One update out of the single LoRAs, without training (adapter/task_vectors.h): task arithmetic, TIES, DARE. λ and the
// method's own number are those with the lowest loss on the validation part.

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <optional>

#include "experiment/methods/registry.h"
#include "experiment/methods/single_loras.h"
#include "moelora/adapter/task_vectors.h"
#include "moelora/io/error.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {
namespace {

std::string not_empty(const std::vector<double>& values) {
  return values.empty() ? "expected at least one value in lambdas, ties_lambdas, densities and drop_rates each" : "";
}

/// Section "composition".
class CompositionSettings : public OwnSettings {
 public:
  std::vector<double> lambdas{0.1, 0.2, 0.3, 0.5, 0.7, 1.0};  ///< Of sums over tasks; tried on the validation part.
  std::vector<double> ties_lambdas{1.0, 2.0, 4.0, 8.0};  ///< Of TIES' mean over tasks, which is smaller than a sum.
  std::vector<double> densities{0.2, 0.5};               ///< TIES: shares of entries that are kept.
  std::vector<double> drop_rates{0.5, 0.9};              ///< DARE.

  void fields(io::FieldVisitor& visit) override {
    visit.section({"composition", "Task arithmetic, TIES and DARE over the single LoRAs; all are tried on validation."},
                  [&](io::FieldVisitor& section) {
                    section({"lambdas", "factors of sums over tasks"}, lambdas, not_empty);
                    section({"ties_lambdas", "factors of TIES' mean over tasks"}, ties_lambdas, not_empty);
                    section({"densities", "TIES: shares of entries that are kept"}, densities, not_empty);
                    section({"drop_rates", "DARE: shares of entries that are dropped"}, drop_rates, not_empty);
                  });
  }
};

struct Candidate {
  double lambda = 1.0;
  double parameter = 0.0;  // density or drop rate; unused by task arithmetic
};

class Composition : public Method {
 public:
  using Method::Method;
  std::vector<std::string> needs() const override { return {kSingleRow}; }
  bool needs_validation() const override { return true; }
  std::string remark() const override { return kCompositionRemark; }
  std::shared_ptr<OwnSettings> own_settings() const override { return std::make_shared<CompositionSettings>(); }

  Product make(Workbench& bench) const override {
    const auto begin = std::chrono::steady_clock::now();
    const SingleLoras loras = read_single_loras(bench);
    const auto validation = train::encode_examples(bench.validation, bench.tasks, *bench.base.tokenizer,
                                                   bench.config.data.encode, "validation");
    const std::vector<Candidate> tried = candidates(bench.experiment.own.of<CompositionSettings>());
    Product product;
    std::optional<double> best_loss;
    Candidate best;
    Adapter adapter{nullptr};
    std::int64_t done = 0;
    product.details["tried"] = nlohmann::ordered_json::array();
    for (const Candidate& candidate : tried) {
      bench.stop_if_asked();
      bench.status("trying λ", done++, static_cast<std::int64_t>(tried.size()));
      apply(bench, loras, candidate, adapter);
      const double loss = validation_loss_of(bench, *adapter, validation);
      product.details["tried"].push_back(
          {{"lambda", candidate.lambda}, {"parameter", candidate.parameter}, {"validation_loss", loss}});
      if (std::isfinite(loss) && (!best_loss || loss < *best_loss)) {
        best_loss = loss;
        best = candidate;
      }
    }
    MOELORA_CHECK(best_loss, "no λ that was tried gives a finite validation loss; add smaller ones to composition");
    apply(bench, loras, best, adapter);
    product.adapter = adapter;
    product.validation_loss = best_loss;
    product.details["lambda"] = best.lambda;
    product.details["parameter"] = best.parameter;
    for (const auto& update : loras.of_task) {
      for (const nn::LowRank& low_rank : update) {
        product.trained_parameters += low_rank.numel();
      }
    }
    save_product(bench, *adapter, product.details);
    product.training_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    return product;
  }

 protected:
  virtual std::vector<Candidate> candidates(const CompositionSettings& section) const = 0;
  /// Makes `adapter` (null at first) the candidate's composition.
  virtual void apply(Workbench& bench, const SingleLoras& loras, const Candidate& candidate,
                     Adapter& adapter) const = 0;

  static std::vector<Candidate> pairs(const std::vector<double>& lambdas, const std::vector<double>& parameters) {
    std::vector<Candidate> all;
    for (const double parameter : parameters) {
      for (const double lambda : lambdas) {
        all.push_back({lambda, parameter});
      }
    }
    return all;
  }
};

class TaskArithmetic : public Composition {
 public:
  TaskArithmetic()
      : Composition("task-arithmetic", "Task arithmetic",
                    "λ times the sum of the single LoRAs' updates, λ by validation") {}

 protected:
  std::vector<Candidate> candidates(const CompositionSettings& section) const override {
    return pairs(section.lambdas, {0.0});
  }
  // Σ λ ΔW_t is what a table of weights says.
  void apply(Workbench& bench, const SingleLoras& loras, const Candidate& candidate, Adapter& adapter) const override {
    const auto tasks = static_cast<std::size_t>(bench.tasks.size());
    std::vector<std::vector<double>> table(
        tasks, std::vector<double>(static_cast<std::size_t>(loras.tasks.size()), candidate.lambda));
    if (adapter) {
      adapter->set_table(std::move(table));
    } else {
      adapter = inject_table(bench, loras, std::move(table));
    }
  }
};

/// A composition whose result has no low rank: held exactly, as factors of full rank.
class DenseComposition : public Composition {
 public:
  using Composition::Composition;
  bool serves_unmerged() const override { return false; }

 protected:
  void apply(Workbench& bench, const SingleLoras& loras, const Candidate& candidate, Adapter& adapter) const override {
    std::vector<TaskVector> vectors;
    for (const auto& updates : loras.of_task) {
      TaskVector& vector = vectors.emplace_back();
      for (const nn::LowRank& update : updates) {
        vector.push_back(update.dense());
      }
    }
    std::vector<nn::LowRank> factors;
    for (const at::Tensor& update : compose(vectors, candidate, bench.seed)) {
      factors.push_back(factors_of_dense(update));
    }
    if (adapter) {
      fill_factors(*adapter, {factors});
    } else {
      adapter = inject_factors(bench, loras, {factors});
    }
  }
  virtual TaskVector compose(const std::vector<TaskVector>& vectors, const Candidate& candidate,
                             std::uint64_t seed) const = 0;
};

class Ties : public DenseComposition {
 public:
  Ties()
      : DenseComposition("ties", "TIES", "largest entries of the single LoRAs' updates, elected signs, disjoint mean") {
  }

 protected:
  std::vector<Candidate> candidates(const CompositionSettings& section) const override {
    return pairs(section.ties_lambdas, section.densities);
  }
  TaskVector compose(const std::vector<TaskVector>& vectors, const Candidate& candidate, std::uint64_t) const override {
    return ties(vectors, {.density = candidate.parameter, .lambda = candidate.lambda});
  }
};

class Dare : public DenseComposition {
 public:
  Dare()
      : DenseComposition("dare", "DARE",
                         "entries of the single LoRAs' updates dropped at random, the rest rescaled and added") {}

 protected:
  std::vector<Candidate> candidates(const CompositionSettings& section) const override {
    return pairs(section.lambdas, section.drop_rates);
  }
  TaskVector compose(const std::vector<TaskVector>& vectors, const Candidate& candidate,
                     std::uint64_t seed) const override {
    return dare(vectors, std::vector<double>(vectors.size(), candidate.lambda),
                {.drop = candidate.parameter, .seed = seed});
  }
};

}  // namespace

std::vector<MethodPtr> composition_methods() {
  return {std::make_shared<TaskArithmetic>(), std::make_shared<Ties>(), std::make_shared<Dare>()};
}

}  // namespace moelora::experiment
