// A sample's loss and gradients must not depend on what else is computed with it: packed with others, in any order, in
// any micro-batches, divided over any number of ranks, with dropout on. (That processes add up what they divide is
// measured by ranks.sh.)

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "cases.h"
#include "model_s.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/data/balance.h"

namespace moelora::bench {
namespace {

using Gradients = std::map<std::string, at::Tensor>;
using Parts = std::vector<std::vector<std::int64_t>>;  // samples that are computed together, by index

struct Computed {
  std::vector<double> losses;  // by sample
  Gradients gradients;         // of all, each label weighing the same
};

Computed compute(model::ChatGlm& model, Adapter& adapter, const train::StepSamples& samples, const Parts& parts,
                 std::int64_t micro_batch_tokens) {
  Computed computed;
  computed.losses.resize(samples.examples.size());
  for (const std::vector<std::int64_t>& part : parts) {
    train::StepSamples chosen;
    for (const std::int64_t sample : part) {
      chosen.examples.push_back(samples.examples[sample]);
      chosen.draws.push_back(samples.draws[sample]);
    }
    const train::SampleLosses losses = train::accumulate_gradients(*model, adapter.get(), chosen, 5, micro_batch_tokens,
                                                                   1.0, train::label_count(samples.examples));
    for (std::size_t i = 0; i < part.size(); ++i) {
      computed.losses[part[i]] = losses.sums[i];
    }
  }
  for (auto& [name, parameter] : adapter_tensors(*adapter)) {
    computed.gradients[name] = parameter.grad().clone();
    parameter.mutable_grad() = at::Tensor();
  }
  return computed;
}

struct Difference {
  double loss = 0.0;
  double gradient = 0.0;  // relative to the largest of its tensor
};

void widen(Difference& worst, const Computed& found, const Computed& alone) {
  for (std::size_t i = 0; i < alone.losses.size(); ++i) {
    worst.loss = std::max(worst.loss, std::abs(found.losses[i] - alone.losses[i]) / alone.losses[i]);
  }
  for (const auto& [name, gradient] : alone.gradients) {
    const double largest = gradient.abs().max().item<double>();
    const double difference = (found.gradients.at(name) - gradient).abs().max().item<double>();
    worst.gradient = std::max(worst.gradient, difference / largest);
  }
}

}  // namespace

void alone(const Options&) {
  model::ChatGlm model = model_s();
  Adapter adapter = adapter_s(model, adapter_config_s());
  std::vector<data::Example> examples;
  std::vector<std::int64_t> lengths{40, 57, 256, 33, 128, 190, 75, 301};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    examples.push_back(random_example(lengths[i], lengths[i] / 2 + 3 * (index % 3), index % 4, i));
  }
  const train::StepSamples samples = step_samples(examples);
  Parts one_by_one;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(examples.size()); ++i) {
    one_by_one.push_back({i});
  }
  const Computed alone = compute(model, adapter, samples, one_by_one, kMicroBatchTokens);
  const std::vector<Parts> ways{{{0, 1, 2, 3, 4, 5, 6, 7}}, {{7, 6, 5, 4, 3, 2, 1, 0}}, {{3, 0, 6, 2, 7, 5, 1, 4}},
                                data::balance(lengths, 2),  data::balance(lengths, 4),  data::balance(lengths, 12)};
  Difference worst;
  for (const Parts& parts : ways) {
    for (const std::int64_t tokens : {kMicroBatchTokens, std::int64_t{512}}) {
      widen(worst, compute(model, adapter, samples, parts, tokens), alone);
    }
  }
  const nlohmann::ordered_json details{{"samples", examples.size()}, {"ways", 2 * ways.size()}, {"dropout", 0.1}};
  report({14,
          "S: a sample's loss packed, reordered, divided over 1 to 12 ranks / alone, relative difference",
          "",
          1e-5,
          {}},
         worst.loss, details);
  report({14, "S: the gradients, relative to the largest of each tensor", "", 1e-5, {}}, worst.gradient, details);
}

}  // namespace moelora::bench
