// One LoRA for all tasks of a higher rank: what mixtures have to beat (Liu et al., arXiv 2508.05078, who find that a
// single LoRA of sufficiently increased rank is competitive with several adapters).

#include <algorithm>
#include <cmath>

#include "experiment/grid/bench.h"
#include "experiment/methods/registry.h"
#include "moelora/adapter/parameter_count.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

/// alpha / rank stays: a larger rank is no larger step.
void take_rank(MoeLoraConfig& adapter, std::int64_t rank) {
  adapter.alpha *= static_cast<double>(rank) / static_cast<double>(adapter.rank);
  adapter.rank = rank;
}

class HighRankSettings : public OwnSettings {
 public:
  std::int64_t rank = 64;
  void fields(io::FieldVisitor& visit) override {
    visit({"high_rank", "rank of the method lora-high-rank; alpha / rank stays the same"}, rank, io::at_least(1));
  }
};

class EqualParametersSettings : public OwnSettings {
 public:
  std::string method = "moelora-d";
  void fields(io::FieldVisitor& visit) override {
    visit({"equal_parameters_to", "the method whose number of trained parameters lora-equal gets by its rank"}, method);
  }
};

class EqualParametersLora : public TrainedMethodWith<EqualParametersSettings> {
 public:
  EqualParametersLora()
      : TrainedMethodWith(
            "lora-equal", "LoRA (Full), equal parameters",
            "one LoRA for all tasks of the rank that comes nearest to a mixture's number of parameters",
            [](const ExperimentConfig&, std::int64_t, train::TrainConfig& config) { plain_lora(config.adapter); }) {}

  std::vector<std::pair<std::string, std::string>> problems(const ExperimentConfig& experiment) const override {
    const std::string& other = experiment.own.of<EqualParametersSettings>().method;
    try {
      train::TrainConfig config;
      find_method(other).configure(experiment, /*tasks=*/2, config);
      if (other != key() && find_method(other).is_trained() && config.mode == train::Mode::adapter) {
        return {};
      }
    } catch (const Error& error) {
      return {{"equal_parameters_to", error.what()}};
    }
    return {{"equal_parameters_to", "expected another method that trains an adapter, found " + other}};
  }

  Product make(Workbench& bench) const override {
    const Method& other = find_method(bench.experiment.own.of<EqualParametersSettings>().method);
    const auto tasks = bench.tasks.size();
    const auto count = [&](const MoeLoraConfig& config) {
      return planned_parameter_count(*bench.base.model, config, tasks);
    };
    const std::int64_t wanted = count(config_of(bench.experiment, other, tasks, bench.seed, 1.0).adapter);
    const std::int64_t common = bench.config.adapter.rank;
    MoeLoraConfig one = bench.config.adapter;
    one.rank = 1;
    const double of_one = static_cast<double>(count(one));
    take_rank(bench.config.adapter, std::max<std::int64_t>(1, std::llround(static_cast<double>(wanted) / of_one)));
    const std::int64_t rank = bench.config.adapter.rank;
    const std::int64_t own = count(bench.config.adapter);
    Product product = train_method(bench);
    product.details["rank"] = rank;
    product.details["parameters"] = own;
    product.details["equal_to"] = other.key();
    product.details["its_parameters"] = wanted;
    product.details["note"] =
        "rank " + std::to_string(rank) + " (to the nearest), " + io::with_commas(own) + " parameters for the " +
        io::with_commas(wanted) + " of " + other.title() +
        (rank == common ? "; that is the common rank, so with the same learning rate it is LoRA (Full) itself" : "");
    return product;
  }
};

}  // namespace

std::vector<MethodPtr> high_rank_lora_methods() {
  return {std::make_shared<EqualParametersLora>(),
          std::make_shared<TrainedMethodWith<HighRankSettings>>(
              "lora-high-rank", "LoRA (Full), high rank", "one LoRA for all tasks of the rank high_rank",
              [](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
                plain_lora(config.adapter);
                take_rank(config.adapter, experiment.own.of<HighRankSettings>().rank);
              })};
}

}  // namespace moelora::experiment
