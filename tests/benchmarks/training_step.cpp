// A training step of model S with the adapter, against the frozen model and against the plain form of both.

#include <ATen/ATen.h>
#include <torch/optim/adamw.h>

#include "cases.h"
#include "eager.h"
#include "model_s.h"
#include "moelora/io/error.h"

namespace moelora::bench {
namespace {

struct EagerMoeLoraStep {
  explicit EagerMoeLoraStep(const model::ChatGlm& given)
      : model(given), adapter(given->config(), 8, 16, 4), optimizer(adapter.parameters(), 1e-5) {}

  double run(const PaddedBatch& batch) {
    optimizer.zero_grad();
    const at::Tensor loss = eager_loss(model, batch, &adapter);
    loss.backward();
    optimizer.step();
    return loss.item<double>();
  }

  model::ChatGlm model;
  EagerMoeLora adapter;
  torch::optim::AdamW optimizer;
};

}  // namespace

void training_step(const Options& options) {
  model::ChatGlm model = model_s();
  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  const PaddedBatch padded = pad(samples.examples);
  // Both sides compute the same model: else the ratio says nothing.
  const double frozen_loss = frozen_step(model, samples);
  const double eager_loss_value = eager_loss(model, padded, nullptr).item<double>();
  MOELORA_CHECK(std::abs(frozen_loss - eager_loss_value) < 1e-4 * eager_loss_value, "the yardstick's loss is ",
                eager_loss_value, ", ours is ", frozen_loss);
  Adapter adapter = adapter_s(model, adapter_config_s());
  adapter->disable();
  TrainStep step(model, adapter, kMicroBatchTokens);
  EagerMoeLoraStep eager_moelora(model);
  const auto ours = [&](int) { step.run(samples); };

  const Paired frozen = measure_paired(
      ours, [&](int) { frozen_step(model, samples); }, options);
  report({1, "S: MOELoRA step / own frozen forward + backward", "", 1.08, 1.04}, frozen.ratio,
         details_of(frozen, "MOELoRA step", "own frozen"));
  const Paired eager = measure_paired(
      ours, [&](int) { eager_loss(model, padded, nullptr).backward(); }, options);
  report({2, "S: MOELoRA step / Eager frozen", "", 1.00, 0.88}, eager.ratio,
         details_of(eager, "MOELoRA step", "Eager frozen"));
  const Paired reference = measure_paired(
      ours, [&](int) { eager_moelora.run(padded); }, options);
  report({3, "S: MOELoRA step / Eager with MOELoRA", "", 0.33, 0.25}, reference.ratio,
         details_of(reference, "MOELoRA step", "Eager MOELoRA"));
}

void training_memory(const Options& options) {
  const auto peak = [&](const std::string& name) {
    return peak_memory_of("'" + options.program.string() + "' --threads " + std::to_string(options.threads) +
                          " --once " + name);
  };
  const double ours = peak("moelora_step");
  const double eager = peak("eager_frozen_step");
  report({4, "S: peak memory of a MOELoRA step / Eager frozen", "", 0.80, 0.65}, ours / eager,
         {{"ours_gb", ours / 1e9},
          {"yardstick_gb", eager / 1e9},
          {"own_frozen_gb", peak("frozen_step") / 1e9},
          {"process_without_a_step_gb", peak("model") / 1e9}});
  report({4, "S: peak memory of a MOELoRA step", "GB", 1.4, 1.1}, ours / 1e9);
}

void number_of_experts(const Options& options) {
  model::ChatGlm model = model_s();
  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  const auto step_with = [&](std::int64_t experts) {
    Adapter adapter = adapter_s(model, adapter_config_s(experts), "experts " + std::to_string(experts));
    adapter->disable();
    return TrainStep(model, adapter, kMicroBatchTokens);
  };
  TrainStep one = step_with(1);
  for (const std::int64_t experts : {4, 8, 16}) {
    TrainStep step = step_with(experts);
    const Paired paired = measure_paired([&](int) { step.run(samples); }, [&](int) { one.run(samples); }, options);
    report({7, "S: step with N = " + std::to_string(experts) + " / N = 1, r = 16", "", 1.03, 1.00}, paired.ratio,
           details_of(paired, "N = " + std::to_string(experts), "N = 1"));
  }
}

nlohmann::ordered_json once(const std::string& name, int times) {
  if (nlohmann::ordered_json planned = planned_step(name, times); !planned.is_null()) {
    return planned;
  }
  if (small_decoder_once(name, times)) {
    return nlohmann::ordered_json::object();
  }
  model::ChatGlm model = model_s();
  const std::vector<data::Example> examples = batch_s();
  const train::StepSamples samples = step_samples(examples);
  const auto repeat = [&](const auto& step) {
    for (int i = 0; i < times; ++i) {
      step();
    }
  };
  if (name == "moelora_step") {
    TrainStep step(model, adapter_s(model, adapter_config_s()), kMicroBatchTokens);
    repeat([&] { step.run(samples); });
  } else if (name == "frozen_step") {
    repeat([&] { frozen_step(model, samples); });
  } else if (name == "eager_frozen_step") {
    const PaddedBatch padded = pad(samples.examples);
    repeat([&] { eager_loss(model, padded, nullptr).backward(); });
  } else if (name == "eager_moelora_step") {
    EagerMoeLoraStep step(model);
    const PaddedBatch padded = pad(samples.examples);
    repeat([&] { step.run(padded); });
  } else {
    MOELORA_CHECK(name == "model",
                  "expected moelora_step, frozen_step, eager_frozen_step, eager_moelora_step, "
                  "small_decoder_step, small_decoder_plain, model or a situation of the case plan, found '",
                  name, "'");
  }
  return nlohmann::ordered_json::object();
}

}  // namespace moelora::bench
