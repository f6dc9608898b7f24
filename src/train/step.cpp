#include "moelora/train/step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "moelora/data/batch.h"
#include "moelora/io/error.h"
#include "moelora/train/plan.h"
#include "nn/host_copy.h"

namespace moelora::train {
namespace {

/// Called with the per-label losses of a micro-batch, still attached to the graph.
using UseLosses = std::function<void(const at::Tensor& losses)>;

LabelLosses run_micro_batches(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                              bool dropout, double label_weight, const GradientOptions& with,
                              const UseLosses& use_losses) {
  LabelLosses result;
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : samples.examples) {
    lengths.push_back(example->length());
    result.samples.labels.push_back(example->label_count());
    result.samples.tokens += example->length();
  }
  if (samples.examples.empty()) {
    return result;
  }
  const at::Device device = model.device();
  result.of_samples = data::plan_micro_batches(lengths, with.micro_batch_tokens);
  for (const std::vector<std::int64_t>& indices : result.of_samples) {
    std::vector<const data::Example*> examples;
    std::vector<std::int64_t> draws;
    for (const std::int64_t index : indices) {
      examples.push_back(samples.examples[static_cast<std::size_t>(index)]);
      draws.push_back(samples.draws[static_cast<std::size_t>(index)]);
    }
    data::Batch batch = data::pack(examples, draws, model, at::kCPU);
    at::Tensor sample_weights;  // of a sample: that of all its labels
    if (label_weight > 0.0) {
      std::vector<float> weights;
      for (const data::Example* example : examples) {
        weights.push_back(static_cast<float>(label_weight * static_cast<double>(example->label_count())));
      }
      sample_weights = at::tensor(weights);
    }
    std::vector<at::Tensor*> along = batch.tensors();
    along.push_back(&sample_weights);
    const nn::DropoutKey key = dropout ? nn::DropoutKey{with.dropout_seed, batch.draws} : nn::DropoutKey{};
    nn::RowContext context = adapter != nullptr
                                 ? adapter->context(batch.segments, single_tasks(batch.tasks), key, along)
                                 : nn::RowContext::plain(batch.segments, device, {}, along);
    const bool scaled = sample_weights.defined() && with.device_loss_scale.defined();
    context.sample_weights = scaled ? sample_weights * with.device_loss_scale : sample_weights;
    model::ForwardOptions options;
    options.output_rows = batch.label_rows;
    if (std::isfinite(with.activation_bytes)) {
      options.recomputed_blocks = blocks_to_recompute(model, workload_of(model, examples),
                                                      with.activation_bytes - prefix_bytes(model, adapter, examples));
    }
    const at::Tensor hidden = model.hidden(batch.ids, batch.positions, context, options);
    const at::Tensor losses = model::token_losses(model, hidden, batch.labels);
    use_losses(losses);
    result.values.push_back(losses.detach());
  }
  return result;
}

}  // namespace

SampleLosses LabelLosses::with(const std::vector<at::Tensor>& read) const {
  SampleLosses result = samples;
  result.sums.resize(samples.labels.size(), 0.0);
  for (std::size_t i = 0; i < of_samples.size(); ++i) {
    const at::Tensor values = read[i].to(at::kCPU, at::kDouble).contiguous();
    const double* next = values.const_data_ptr<double>();
    for (const std::int64_t index : of_samples[i]) {
      const auto sample = static_cast<std::size_t>(index);
      result.sums[sample] = std::accumulate(next, next + result.labels[sample], 0.0);
      next += result.labels[sample];
    }
  }
  return result;
}

SampleLosses LabelLosses::read() const { return with(nn::HostCopy(values).values()); }

double SampleLosses::sum() const { return std::accumulate(sums.begin(), sums.end(), 0.0); }

std::int64_t SampleLosses::label_count() const {
  return std::accumulate(labels.begin(), labels.end(), std::int64_t{0});
}

LabelLosses begin_gradients(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                            const GradientOptions& options) {
  MOELORA_CHECK(adapter == nullptr || adapter->is_training(),
                "an adapter in eval mode has no dropout; call train() on it before it is trained");
  const std::int64_t labels = options.step_labels > 0 ? options.step_labels : label_count(samples.examples);
  const double weight = options.loss_scale / static_cast<double>(labels);
  return run_micro_batches(model, adapter, samples, true, weight, options, [&](const at::Tensor& losses) {
    at::Tensor weights = at::full_like(losses.detach(), weight);
    losses.backward(options.device_loss_scale.defined() ? weights.mul_(options.device_loss_scale) : weights);
  });
}

SampleLosses accumulate_gradients(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                                  std::uint64_t dropout_seed, std::int64_t micro_batch_tokens, double loss_scale,
                                  std::int64_t step_labels, double activation_bytes) {
  return begin_gradients(model, adapter, samples,
                         {.dropout_seed = dropout_seed,
                          .micro_batch_tokens = micro_batch_tokens,
                          .loss_scale = loss_scale,
                          .device_loss_scale = {},
                          .step_labels = step_labels,
                          .activation_bytes = activation_bytes})
      .read();
}

std::int64_t label_count(const std::vector<const data::Example*>& examples) {
  std::int64_t labels = 0;
  for (const data::Example* example : examples) {
    labels += example->label_count();
  }
  return labels;
}

SampleLosses evaluate_losses(model::CausalLM& model, const AdapterImpl* adapter,
                             const std::vector<const data::Example*>& examples, std::int64_t micro_batch_tokens) {
  at::NoGradGuard no_grad;
  const StepSamples samples{examples, std::vector<std::int64_t>(examples.size(), 0)};
  return run_micro_batches(model, adapter, samples, false, 0.0, {.micro_batch_tokens = micro_batch_tokens},
                           [](const at::Tensor&) {})
      .read();
}

}  // namespace moelora::train
