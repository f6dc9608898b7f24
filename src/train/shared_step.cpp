#include "train/shared_step.h"

#include <ATen/core/grad_mode.h>

#include <cmath>
#include <utility>

#include "moelora/io/dtype.h"
#include "moelora/log/log.h"
#include "moelora/model/finite_logits.h"
#include "moelora/train/card.h"
#include "moelora/train/diverged.h"
#include "moelora/train/plan.h"
#include "moelora/train/run_folder.h"

namespace moelora::train {
namespace {

constexpr std::int64_t kNamedAfter = 3;  // skipped steps in a row: then the layer is looked for

std::string ids_of(const std::vector<const data::Example*>& examples) {
  std::string text;
  for (const data::Example* example : examples) {
    text += (text.empty() ? "" : ", ") + example->id;
  }
  return text;
}

std::vector<const data::Example*> not_finite(const SampleLosses& losses, const StepSamples& samples) {
  std::vector<const data::Example*> bad;
  for (std::size_t i = 0; i < losses.sums.size(); ++i) {
    if (!std::isfinite(losses.sums[i])) {
      bad.push_back(samples.examples[i]);
    }
  }
  return bad;
}

}  // namespace

SharedStep::SharedStep(const TrainInputs& inputs, const TrainingOptions& options, AdamW& optimizer, LossScaler& scaler)
    : inputs_(inputs), options_(options), optimizer_(optimizer), scaler_(scaler) {
  if (inputs.ranks != nullptr) {
    exchange_.emplace(*inputs.ranks, optimizer.parameters());
  }
  std::vector<at::Tensor> trained;
  for (const auto& [name, parameter] : optimizer.parameters()) {
    trained.push_back(parameter);
  }
  const Machine machine = inputs.model.device().is_cpu() ? Machine{.resident_bytes = resident_bytes()}
                                                         : device_machine(weight_bytes(inputs.model), inputs.adapter);
  activation_bytes_ = activation_bytes(options.memory_budget_gb * 1e9, trained, machine);
}

BegunStep SharedStep::begin(StepSamples samples, const Settings& settings) {
  BegunStep step;
  step.number = settings.number;
  step.samples = std::move(samples);
  step.stop = settings.stop;
  if (inputs_.ranks != nullptr) {
    inputs_.ranks->set_step(settings.number);
    mine_ = samples_of_rank(step.samples.examples, *inputs_.ranks);
  }
  if (inputs_.adapter != nullptr) {
    inputs_.adapter->train();  // whatever an evaluation between two steps has left
  }
  const bool on_cpu = inputs_.model.device().is_cpu();
  optimizer_.clear_gradients();
  step.losses = begin_gradients(inputs_.model, inputs_.adapter, own_part(step.samples),
                                {.dropout_seed = options_.seed,
                                 .micro_batch_tokens = options_.micro_batch_tokens,
                                 .loss_scale = on_cpu ? scaler_.scale() : 1.0,
                                 .device_loss_scale = scaler_.device_scale(),
                                 .step_labels = label_count(step.samples.examples),
                                 .activation_bytes = activation_bytes_});
  AdamW::Exchange over_ranks;
  if (exchange_) {
    over_ranks = [&](std::vector<at::Tensor>& gradients) { exchange(step, gradients); };
  }
  if (on_cpu) {
    step_on_cpu(step, settings, over_ranks);
  } else {
    step_on_device(step, settings, over_ranks);
  }
  optimizer_.clear_gradients();
  return step;
}

void SharedStep::step_on_cpu(BegunStep& step, const Settings& settings, const AdamW::Exchange& over_ranks) {
  const double norm = optimizer_.collect_gradients(scaler_.scale(), options_.max_grad_norm, over_ranks);
  step.outcome = judged(step, exchange_ ? step.losses.samples : step.losses.read(), norm);
  if (!step.outcome->skipped) {
    optimizer_.step(settings.learning_rate);
  }
  if (settings.expert_weights && inputs_.adapter != nullptr) {
    step.outcome->expert_weights = inputs_.adapter->mean_expert_weights();
  }
}

void SharedStep::step_on_device(BegunStep& step, const Settings& settings, const AdamW::Exchange& over_ranks) {
  std::vector<at::Tensor> numbers;
  numbers.push_back(optimizer_.collect_on_device(scaler_.device_scale(), options_.max_grad_norm, over_ranks));
  optimizer_.step(settings.learning_rate);
  scaler_.update_on_device(optimizer_.found_inf());
  const bool weights = settings.expert_weights && inputs_.adapter != nullptr;
  numbers.push_back(weights ? inputs_.adapter->mean_expert_weights() : at::Tensor());
  numbers.insert(numbers.end(), step.losses.values.begin(), step.losses.values.end());
  step.losses.values.clear();
  step.copy.emplace(std::move(numbers));
}

StepOutcome SharedStep::read(BegunStep& step) {
  if (!step.outcome) {
    const std::vector<at::Tensor>& numbers = step.copy->values();
    SampleLosses losses = step.losses.with({numbers.begin() + 2, numbers.end()});
    step.outcome = judged(step, std::move(losses), static_cast<double>(*numbers[0].const_data_ptr<float>()));
    step.outcome->expert_weights = numbers[1];
  }
  return std::move(*step.outcome);
}

/// What the numbers of a step mean; all ranks see the same ones and do alike. The scaler follows.
StepOutcome SharedStep::judged(const BegunStep& step, SampleLosses losses, double gradient_norm) {
  StepOutcome outcome;
  outcome.gradient_norm = gradient_norm;
  outcome.skipped = scaler_.is_on() && !std::isfinite(gradient_norm);
  if (outcome.skipped) {
    skip(step, losses);
  } else {
    const std::vector<const data::Example*> bad = not_finite(losses, step.samples);
    if (!bad.empty()) {
      throw TrainingDiverged(detail::concat("the loss of step ", step.number, " is not finite, in samples ",
                                            ids_of(bad), "; look at these records, or ",
                                            advice_to_go_back(inputs_.output)));
    }
    if (!std::isfinite(gradient_norm)) {
      throw TrainingDiverged(detail::concat("the gradient of step ", step.number, " is not finite, in samples ",
                                            ids_of(step.samples.examples), "; ", advice_to_go_back(inputs_.output)));
    }
    scaler_.good_step();
  }
  outcome.losses = std::move(losses);
  return outcome;
}

void SharedStep::skip(const BegunStep& step, const SampleLosses& losses) {
  const std::vector<const data::Example*> bad = not_finite(losses, step.samples);
  const bool smaller = scaler_.skip_step();
  if (!smaller) {
    throw TrainingDiverged(detail::concat("the gradient of step ", step.number,
                                          " is not finite even with a loss scale of 1, in samples ",
                                          ids_of(step.samples.examples), ": ", cause_of_overflow(step.samples, losses),
                                          "; ", advice_to_go_back(inputs_.output)));
  }
  if (scaler_.skipped_in_a_row() < kNamedAfter) {
    return;
  }
  if (!bad.empty()) {  // the loss is not scaled: no scale would help
    throw TrainingDiverged(detail::concat("the loss of step ", step.number, " is not finite, in samples ", ids_of(bad),
                                          ", and ", scaler_.skipped_in_a_row(),
                                          " steps in a row were skipped: ", cause_of_overflow(step.samples, losses),
                                          "; look at these records, or ", advice_to_go_back(inputs_.output)));
  }
  if (scaler_.skipped_in_a_row() == kNamedAfter) {
    log::warning(detail::concat(
        "step ", step.number, ": ", kNamedAfter,
        " steps in a row were skipped, for their gradients overflowed: ", cause_of_overflow(step.samples, losses)));
  }
}

/// Where a step's numbers leave their range: runs one of its samples once more, layer by layer.
std::string SharedStep::cause_of_overflow(const StepSamples& samples, const SampleLosses& losses) {
  const std::vector<const data::Example*> bad = not_finite(losses, samples);
  if (bad.empty()) {
    return "all losses are finite, so that it is the gradient that leaves the range of " +
           io::dtype_name(inputs_.model.dtype()) + " on its way back";
  }
  const at::NoGradGuard no_grad;
  const data::Example& example = *bad.front();
  const nn::Segments segments = inputs_.model.segments({example.length()}, {example.label_begin});
  const nn::RowContext context = inputs_.adapter != nullptr
                                     ? inputs_.adapter->context(segments, single_tasks({example.task}))
                                     : nn::RowContext::plain(segments, inputs_.model.device());
  return "in sample " + example.id + " " +
         model::first_not_finite_layer(inputs_.model, {example.ids, segments.bidirectional.front()}, context);
}

/// This rank's samples of a step: all of them if it is alone.
StepSamples SharedStep::own_part(const StepSamples& samples) const {
  if (!exchange_) {
    return samples;
  }
  StepSamples part;
  for (const std::int64_t sample : mine_) {
    part.examples.push_back(samples.examples[static_cast<std::size_t>(sample)]);
    part.draws.push_back(samples.draws[static_cast<std::size_t>(sample)]);
  }
  return part;
}

/// Replaces this rank's losses and gradients by those of all.
void SharedStep::exchange(BegunStep& step, std::vector<at::Tensor>& gradients) {
  const std::vector<const data::Example*>& examples = step.samples.examples;
  if (!inputs_.model.device().is_cpu()) {
    StepExchange::DeviceTotal total = exchange_->sum_on_device(gradients, step.losses, examples, mine_, step.stop);
    gradients = std::move(total.gradients);
    step.losses = std::move(total.losses);
    step.stop = total.stop;
    return;
  }
  const SampleLosses own = step.losses.read();
  StepExchange::Share share;
  share.gradients = gradients;
  share.losses.resize(examples.size(), 0.0);
  for (std::size_t i = 0; i < mine_.size(); ++i) {
    share.losses[static_cast<std::size_t>(mine_[i])] = own.sums[i];
  }
  share.stop = step.stop;
  StepExchange::Share total = exchange_->sum(share);
  gradients = std::move(total.gradients);
  step.losses.samples = losses_of(examples, std::move(total.losses));
  step.stop = total.stop;
}

}  // namespace moelora::train
