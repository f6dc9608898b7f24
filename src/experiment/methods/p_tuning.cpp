// P-Tuning v2 (Liu et al., arXiv 2110.07602): trained keys and values in front of every layer's own.

#include "experiment/methods/registry.h"

namespace moelora::experiment {
namespace {

class PrefixSettings : public OwnSettings {
 public:
  std::int64_t length = 16;
  void fields(io::FieldVisitor& visit) override {
    visit({"prefix_length", "positions of P-Tuning v2's prefixes"}, length, io::at_least(1));
  }
};

MethodPtr prefix_row(std::string key, std::string title, std::string note, bool projection) {
  return std::make_shared<TrainedMethodWith<PrefixSettings>>(
      std::move(key), std::move(title), std::move(note),
      [projection](const ExperimentConfig& experiment, std::int64_t, train::TrainConfig& config) {
        MoeLoraConfig adapter;
        adapter.num_experts = 1;
        adapter.targets.clear();
        adapter.seed = config.adapter.seed;
        adapter.prefix = PrefixConfig{experiment.own.of<PrefixSettings>().length, projection, config.adapter.dropout};
        config.adapter = adapter;
      },
      "extra keys and values, no change of weights");
}

}  // namespace

std::vector<MethodPtr> p_tuning_methods() {
  return {prefix_row("p-tuning", "P-Tuning v2", "trained key/value prefixes of every layer", false),
          prefix_row("p-tuning-projection", "P-Tuning v2, projection",
                     "the same, the prefixes made by a small network from an embedding", true)};
}

}  // namespace moelora::experiment
