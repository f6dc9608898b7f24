#pragma once
// The samples of one optimizer step through the model: packed into micro-batches, forward, loss, backward.

#include <cstdint>
#include <limits>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/model/causal_lm.h"

namespace moelora::train {

/// Samples, and the global draw index of each (the key of its dropout masks).
struct StepSamples {
  std::vector<const data::Example*> examples;
  std::vector<std::int64_t> draws;
};

/// Cross entropies, in nats, by sample in the order given.
struct SampleLosses {
  std::vector<double> sums;          ///< Sum over the sample's labels.
  std::vector<std::int64_t> labels;  ///< Their number.
  std::int64_t tokens = 0;           ///< Rows computed.

  double sum() const;
  std::int64_t label_count() const;
  double mean() const { return sum() / static_cast<double>(label_count()); }
};

/// Adds the gradients of (loss_scale · mean loss over all labels of the step) to the trainable parameters: the same
/// number whatever the micro-batches, because each label has the same weight. `adapter` may be null: plain context.
/// `step_labels`: labels of the whole step when `samples` are only a part of it (0: they are all). `activation_bytes`:
/// what a micro-batch may store and work with; blocks are recomputed in backward to keep to it (train/plan.h).
SampleLosses accumulate_gradients(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                                  std::uint64_t dropout_seed, std::int64_t micro_batch_tokens, double loss_scale = 1.0,
                                  std::int64_t step_labels = 0,
                                  double activation_bytes = std::numeric_limits<double>::infinity());

/// The number of labels of `examples`.
std::int64_t label_count(const std::vector<const data::Example*>& examples);

/// The losses alone: no gradients, no dropout.
SampleLosses evaluate_losses(model::CausalLM& model, const AdapterImpl* adapter,
                             const std::vector<const data::Example*>& examples, std::int64_t micro_batch_tokens);

}  // namespace moelora::train
