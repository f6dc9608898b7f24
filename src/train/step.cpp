#include "moelora/train/step.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "moelora/data/batch.h"
#include "moelora/io/error.h"
#include "moelora/train/plan.h"

namespace moelora::train {
namespace {

/// Called with the per-label losses of a micro-batch, still attached to the graph.
template <typename UseLosses>
SampleLosses run_micro_batches(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                               bool dropout, std::uint64_t dropout_seed, std::int64_t micro_batch_tokens,
                               double activation_bytes, double label_weight, const UseLosses& use_losses) {
  SampleLosses result;
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : samples.examples) {
    lengths.push_back(example->length());
    result.labels.push_back(example->label_count());
    result.tokens += example->length();
  }
  result.sums.resize(samples.examples.size(), 0.0);
  if (samples.examples.empty()) {
    return result;
  }
  const at::Device device = model.device();
  const auto plan = data::plan_micro_batches(lengths, micro_batch_tokens);
  std::vector<at::Tensor> losses_of_plan;  // read at the end: one wait for the device in a step
  for (const std::vector<std::int64_t>& indices : plan) {
    std::vector<const data::Example*> examples;
    std::vector<std::int64_t> draws;
    for (const std::int64_t index : indices) {
      examples.push_back(samples.examples[static_cast<std::size_t>(index)]);
      draws.push_back(samples.draws[static_cast<std::size_t>(index)]);
    }
    const data::Batch batch = data::pack(examples, draws, model, device);
    const nn::DropoutKey key = dropout ? nn::DropoutKey{dropout_seed, batch.draws} : nn::DropoutKey{};
    nn::RowContext context = adapter != nullptr ? adapter->context(batch.segments, single_tasks(batch.tasks), key)
                                                : nn::RowContext::plain(batch.segments, device);
    if (label_weight > 0.0) {
      std::vector<float> weights;  // of a sample: that of all its labels
      for (const data::Example* example : examples) {
        weights.push_back(static_cast<float>(label_weight * static_cast<double>(example->label_count())));
      }
      context.sample_weights = at::tensor(weights).to(device);
    }
    model::ForwardOptions options;
    options.output_rows = batch.label_rows;
    if (std::isfinite(activation_bytes)) {
      options.recomputed_blocks = blocks_to_recompute(model, workload_of(model, examples),
                                                      activation_bytes - prefix_bytes(model, adapter, examples));
    }
    const at::Tensor hidden = model.hidden(batch.ids, batch.positions, context, options);
    const at::Tensor losses = model::token_losses(model, hidden, batch.labels);
    use_losses(losses);
    losses_of_plan.push_back(losses.detach());
  }
  const at::Tensor all = at::cat(losses_of_plan).to(at::kCPU, at::kDouble);
  const double* next = all.const_data_ptr<double>();
  for (const std::vector<std::int64_t>& indices : plan) {
    for (const std::int64_t index : indices) {
      const auto sample = static_cast<std::size_t>(index);
      result.sums[sample] = std::accumulate(next, next + result.labels[sample], 0.0);
      next += result.labels[sample];
    }
  }
  return result;
}

}  // namespace

double SampleLosses::sum() const { return std::accumulate(sums.begin(), sums.end(), 0.0); }

std::int64_t SampleLosses::label_count() const {
  return std::accumulate(labels.begin(), labels.end(), std::int64_t{0});
}

SampleLosses accumulate_gradients(model::CausalLM& model, const AdapterImpl* adapter, const StepSamples& samples,
                                  std::uint64_t dropout_seed, std::int64_t micro_batch_tokens, double loss_scale,
                                  std::int64_t step_labels, double activation_bytes) {
  MOELORA_CHECK(adapter == nullptr || adapter->is_training(),
                "an adapter in eval mode has no dropout; call train() on it before it is trained");
  const std::int64_t labels = step_labels > 0 ? step_labels : label_count(samples.examples);
  const double weight = loss_scale / static_cast<double>(labels);
  return run_micro_batches(model, adapter, samples, true, dropout_seed, micro_batch_tokens, activation_bytes, weight,
                           [&](const at::Tensor& losses) { losses.backward(at::full_like(losses.detach(), weight)); });
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
  return run_micro_batches(model, adapter, samples, false, 0, micro_batch_tokens,
                           std::numeric_limits<double>::infinity(), 0.0, [](const at::Tensor&) {});
}

}  // namespace moelora::train
