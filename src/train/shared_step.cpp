#include "train/shared_step.h"

#include <cmath>
#include <utility>

#include "moelora/train/diverged.h"
#include "moelora/train/plan.h"
#include "moelora/train/run_folder.h"

namespace moelora::train {
namespace {

std::string ids_of(const std::vector<const data::Example*>& examples) {
  std::string text;
  for (const data::Example* example : examples) {
    text += (text.empty() ? "" : ", ") + example->id;
  }
  return text;
}

void check_finite(const SampleLosses& losses, const StepSamples& samples, std::int64_t step,
                  const std::filesystem::path& output) {
  std::vector<const data::Example*> bad;
  for (std::size_t i = 0; i < losses.sums.size(); ++i) {
    if (!std::isfinite(losses.sums[i])) {
      bad.push_back(samples.examples[i]);
    }
  }
  if (!bad.empty()) {
    throw TrainingDiverged(detail::concat("the loss of step ", step, " is not finite, in samples ", ids_of(bad),
                                          "; look at these records, or ", advice_to_go_back(output)));
  }
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
  activation_bytes_ = activation_bytes(options.memory_budget_gb * 1e9, trained, resident_bytes());
}

SharedStep::Outcome SharedStep::gradients(const StepSamples& samples, std::int64_t step, bool stop) {
  if (inputs_.ranks != nullptr) {
    inputs_.ranks->set_step(step);
    mine_ = samples_of_rank(samples.examples, *inputs_.ranks);
  }
  const StepSamples part = own_part(samples);
  const std::int64_t labels = label_count(samples.examples);
  if (inputs_.adapter != nullptr) {
    inputs_.adapter->train();  // whatever an evaluation between two steps has left
  }
  while (true) {
    optimizer_.clear_gradients();
    Outcome outcome;
    outcome.stop = stop;
    outcome.losses = accumulate_gradients(inputs_.model, inputs_.adapter, part, options_.seed,
                                          options_.micro_batch_tokens, scaler_.scale(), labels, activation_bytes_);
    AdamW::Exchange over_ranks;
    if (exchange_) {
      over_ranks = [&](std::vector<at::Tensor>& gradients) { exchange(samples, gradients, outcome); };
    }
    outcome.gradient_norm = optimizer_.collect_gradients(scaler_.scale(), options_.max_grad_norm, over_ranks);
    check_finite(outcome.losses, samples, step, inputs_.output);  // by now all ranks see it, and all end alike
    if (std::isfinite(outcome.gradient_norm)) {
      scaler_.good_step();
      return outcome;
    }
    if (!scaler_.back_off()) {
      throw TrainingDiverged(detail::concat("the gradient of step ", step, " is not finite, in samples ",
                                            ids_of(samples.examples), "; ", advice_to_go_back(inputs_.output)));
    }
  }
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
void SharedStep::exchange(const StepSamples& samples, std::vector<at::Tensor>& gradients, Outcome& outcome) {
  StepExchange::Share share;
  share.gradients = gradients;
  share.losses.resize(samples.examples.size(), 0.0);
  for (std::size_t i = 0; i < mine_.size(); ++i) {
    share.losses[static_cast<std::size_t>(mine_[i])] = outcome.losses.sums[i];
  }
  share.stop = outcome.stop;
  StepExchange::Share total = exchange_->sum(share);
  gradients = std::move(total.gradients);
  outcome.losses = losses_of(samples.examples, std::move(total.losses));
  outcome.stop = total.stop;
}

}  // namespace moelora::train
