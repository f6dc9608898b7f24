#pragma once
// Model S, the model that all training and decoding figures are about, its adapter and its batch.

#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/model/chatglm/chatglm.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/step.h"

namespace moelora::bench {

/// Rows that are computed at once.
constexpr std::int64_t kMicroBatchTokens = 4096;

/// hidden 1024, 16 heads, 8 layers, inner 4096, vocabulary 8192, positions up to 4096.
model::ChatGlmConfig config_s();
/// Random fp32 weights, frozen.
model::ChatGlm model_s();
/// N = 8, r = 16, alpha 32, dropout 0.1, all four linears. B is random too: zeros would be a special case.
MoeLoraConfig adapter_config_s(std::int64_t num_experts = 8);
Adapter adapter_s(model::ChatGlm& model, const MoeLoraConfig& config, const std::string& name = "default",
                  std::int64_t tasks = 4);

/// Random token ids of the given lengths, `context` of them context; task i % tasks.
data::Example random_example(std::int64_t length, std::int64_t context, std::int64_t task, std::uint64_t seed);
/// 4 sequences of 256 tokens, half context, half target, four tasks.
std::vector<data::Example> batch_s();

/// Samples with draw indices 0, 1, …
train::StepSamples step_samples(const std::vector<data::Example>& examples);

/// One optimizer step as the trainer takes it: packed micro-batches, backward, clipping, AdamW.
class TrainStep {
 public:
  /// `activation_bytes`: as train::accumulate_gradients.
  TrainStep(std::shared_ptr<model::CausalLM> model, Adapter adapter, std::int64_t micro_batch_tokens,
            double activation_bytes = std::numeric_limits<double>::infinity());
  TrainStep(const model::ChatGlm& model, Adapter adapter, std::int64_t micro_batch_tokens,
            double activation_bytes = std::numeric_limits<double>::infinity())
      : TrainStep(std::static_pointer_cast<model::CausalLM>(model.ptr()), std::move(adapter), micro_batch_tokens,
                  activation_bytes) {}
  double run(const train::StepSamples& samples);  ///< Returns the mean loss.

 private:
  std::shared_ptr<model::CausalLM> model_;
  Adapter adapter_;
  train::AdamW optimizer_;
  std::int64_t micro_batch_tokens_;
  double activation_bytes_;
};

/// Forward and backward of the frozen model to the embedding's output, on the same packed path, without adapter.
double frozen_step(model::ChatGlm& model, const train::StepSamples& samples);
/// The same in micro-batches, as a training step has them.
void frozen_steps(model::ChatGlm& model, const train::StepSamples& samples, std::int64_t micro_batch_tokens);

}  // namespace moelora::bench
