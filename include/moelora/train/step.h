#pragma once
// The samples of one optimizer step through the model: packed into micro-batches, forward, loss, backward.

#include <ATen/core/Tensor.h>

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

/// The losses of samples where they were computed: on a device, reading them waits for it.
struct LabelLosses {
  SampleLosses samples;                               ///< labels and tokens; `sums` are empty
  std::vector<std::vector<std::int64_t>> of_samples;  ///< the samples of each micro-batch, by index
  std::vector<at::Tensor> values;                     ///< of each micro-batch, its labels' losses, [labels] fp32

  /// With the sums of these values, fp32 on the CPU, in the form of `values`. Added up in fp64.
  SampleLosses with(const std::vector<at::Tensor>& read) const;
  SampleLosses read() const;  ///< One wait for the device.
};

struct GradientOptions {
  std::uint64_t dropout_seed = 0;
  std::int64_t micro_batch_tokens = 4096;
  double loss_scale = 1.0;
  at::Tensor device_loss_scale = {};  ///< 0-dim fp32, on the model's device: a factor of loss_scale; undefined: 1.
  std::int64_t step_labels = 0;       ///< Of the whole step when the samples are only a part of it; 0: they are all.
  /// What a micro-batch may store and work with; blocks are recomputed in backward to keep to it (train/plan.h).
  double activation_bytes = std::numeric_limits<double>::infinity();
};

/// Adds the gradients of (loss scale · mean loss over all labels of the step) to the trainable parameters: the same
/// number whatever the micro-batches, because each label has the same weight. `adapter` may be null: plain context.
/// One upload for each micro-batch; does not wait for a device.
LabelLosses begin_gradients(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                            const GradientOptions& options);

/// The same with the losses read.
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
