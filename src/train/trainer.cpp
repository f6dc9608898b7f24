#include "moelora/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <map>
#include <utility>

#include "moelora/data/sampler.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/log/log.h"
#include "moelora/train/checkpoint.h"
#include "moelora/train/log.h"
#include "moelora/train/loss_scaler.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/progress.h"
#include "moelora/train/step.h"
#include "train/new_task_only.h"
#include "train/run_files.h"
#include "train/shared_step.h"

namespace moelora::train {
namespace {

using SteadyClock = std::chrono::steady_clock;
using LossByTask = std::map<std::string, std::pair<double, std::int64_t>>;  // sum of losses, labels

double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

nlohmann::ordered_json means_of(const LossByTask& losses) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [task, sum_and_labels] : losses) {
    json[task] = sum_and_labels.first / static_cast<double>(sum_and_labels.second);
  }
  return json;
}

/// {task: [N]}; null without a gate that depends on the task.
nlohmann::ordered_json expert_weights_by_task(const AdapterImpl* adapter) {
  nlohmann::ordered_json json;
  if (adapter != nullptr) {
    const std::vector<std::vector<float>> weights = adapter->expert_weights_by_task();
    for (std::size_t task = 0; task < weights.size(); ++task) {
      json[adapter->tasks().name(static_cast<std::int64_t>(task))] = weights[task];
    }
  }
  return json;
}

void check_inputs(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks) {
  options.validate();
  MOELORA_CHECK(!inputs.train.empty(), "expected at least one training sample, found none");
  MOELORA_CHECK(inputs.adapter != nullptr || callbacks.save_model,
                "full-parameter training needs Callbacks::save_model");
  if (inputs.new_task_only) {
    check_new_task_only(inputs, options);
  }
  const std::int64_t longest = inputs.model.max_sequence_length();
  const auto tasks = static_cast<std::int64_t>(inputs.tasks.size());
  for (const auto* examples : {&inputs.train, &inputs.validation}) {
    for (const data::Example& example : *examples) {
      MOELORA_CHECK(example.length() <= longest, "sample ", example.id, " has ", example.length(),
                    " tokens, but the model takes ", longest, "; lower max_source_length or max_target_length");
      MOELORA_CHECK(example.task >= 0 && example.task < tasks, "sample ", example.id, " has task ", example.task,
                    ", expected one of the ", tasks, " tasks named");
    }
  }
}

class Run {
 public:
  Run(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks)
      : inputs_(inputs),
        options_(options),
        callbacks_(callbacks),
        sampler_(tasks_of_samples(inputs.train), options.batch_size, options.batching, options.seed),
        optimizer_(trained_parameters(inputs), {options.beta1, options.beta2, options.epsilon, options.weight_decay}),
        scaler_(inputs.model.dtype() == at::kHalf),
        shared_step_(inputs, options, optimizer_, scaler_),
        checkpoints_(inputs.output / "checkpoints") {
    begin_or_resume();
    if (ranks_ != nullptr) {
      nlohmann::ordered_json own = state_.to_json();
      own["run"].erase("threads");
      own["parameters"] = inputs.adapter != nullptr ? io::fingerprint(optimizer_.parameters()) : "";
      check_same_on_ranks(*ranks_, own);
    }
  }

  TrainResult to_the_end();

 private:
  static std::vector<std::int64_t> tasks_of_samples(const std::vector<data::Example>& examples);
  RunIdentity identity() const;
  void begin_or_resume();
  bool writes() const { return ranks_ == nullptr || ranks_->is_first(); }
  StepReport one_step();
  void note_losses(const SampleLosses& losses, const StepSamples& samples);
  void write_step_line(const StepReport& report, double seconds);
  bool validate();
  void write_checkpoint();
  void finish(TrainResult& result);
  bool wants_stop() const { return callbacks_.stop != nullptr && callbacks_.stop->load(); }
  bool due(std::int64_t every) const { return state_.step % every == 0 || state_.step == options_.steps; }

  const TrainInputs& inputs_;
  const TrainingOptions& options_;
  const Callbacks& callbacks_;
  ProcessGroup* ranks_ = inputs_.ranks;
  data::Sampler sampler_;
  AdamW optimizer_;
  LossScaler scaler_;
  SharedStep shared_step_;
  CheckpointFolder checkpoints_;
  RunState state_;
  SteadyClock::time_point begin_ = SteadyClock::now();
  double earlier_seconds_ = 0.0;
  std::optional<RunLog> log_;  // of the rank that writes
  bool stop_agreed_ = false;   // by all ranks, in the last step
};

std::vector<std::int64_t> Run::tasks_of_samples(const std::vector<data::Example>& examples) {
  std::vector<std::int64_t> tasks;
  tasks.reserve(examples.size());
  for (const data::Example& example : examples) {
    tasks.push_back(example.task);
  }
  return tasks;
}

RunIdentity Run::identity() const {
  RunIdentity identity;
  identity.options = options_.to_json().dump();
  if (inputs_.adapter != nullptr) {
    nlohmann::ordered_json adapter = inputs_.adapter->config().to_json();
    adapter["tasks"] = inputs_.adapter->tasks().names();
    if (inputs_.new_task_only) {
      adapter["trained_before"] = fingerprint_of_frozen(*inputs_.adapter);
    }
    identity.adapter = adapter.dump();
  }
  identity.data_hash = examples_hash(inputs_.train, inputs_.validation);
  identity.base_fingerprint = inputs_.base_fingerprint;
  identity.threads = at::get_num_threads();
  identity.ranks = ranks_ != nullptr ? ranks_->size() : 1;
  return identity;
}

void Run::begin_or_resume() {
  const std::filesystem::path log_path = inputs_.output / "log.jsonl";
  const RunIdentity now = identity();
  std::optional<RunState> saved;
  if (inputs_.resume) {
    saved = checkpoints_.newest();
  } else if (writes()) {
    MOELORA_CHECK(checkpoints_.steps().empty() && !std::filesystem::exists(log_path), inputs_.output.string(),
                  " holds a run already; resume it or choose another output folder");
  }
  if (saved) {
    check_same_run(saved->identity, now);
    const std::filesystem::path folder = checkpoints_.path_of(saved->step);
    load_trained_parameters(inputs_, folder);
    load_optimizer(optimizer_, folder);
    sampler_.restore({saved->sampler_seed, saved->step});
    scaler_.restore(saved->loss_scale, saved->good_steps);
    state_ = *saved;
    earlier_seconds_ = saved->seconds;
    log::info(detail::concat("resuming after step ", saved->step, " of ", options_.steps));
  } else if (inputs_.resume) {
    log::info("no checkpoint to resume from: the run begins anew");
  }
  state_.identity = now;
  state_.sampler_seed = options_.seed;
  if (writes()) {
    log_.emplace(log_path, state_.log_bytes);
  }
}

StepReport Run::one_step() {
  const data::Sampler::Draw draw = sampler_.next();
  StepSamples samples;
  samples.draws = draw.draws;
  for (const std::int64_t sample : draw.samples) {
    samples.examples.push_back(&inputs_.train[static_cast<std::size_t>(sample)]);
  }
  const SharedStep::Outcome outcome = shared_step_.gradients(samples, state_.step + 1, wants_stop());
  const SampleLosses& losses = outcome.losses;
  stop_agreed_ = outcome.stop;
  StepReport report;
  report.gradient_norm = outcome.gradient_norm;
  report.learning_rate =
      options_.learning_rate * schedule_factor(options_.schedule, state_.step, options_.steps, options_.warmup_steps);
  optimizer_.step(report.learning_rate);
  optimizer_.clear_gradients();
  note_losses(losses, samples);
  report.step = ++state_.step;
  report.loss = losses.mean();
  report.tokens = losses.tokens;
  state_.tokens += losses.tokens;
  return report;
}

void Run::note_losses(const SampleLosses& losses, const StepSamples& samples) {
  for (std::size_t i = 0; i < losses.sums.size(); ++i) {
    auto& [sum, labels] = state_.window[inputs_.tasks[static_cast<std::size_t>(samples.examples[i]->task)]];
    sum += losses.sums[i];
    labels += losses.labels[i];
  }
}

void Run::write_step_line(const StepReport& report, double seconds) {
  nlohmann::ordered_json line{{"step", report.step},        {"loss", report.loss},
                              {"lr", report.learning_rate}, {"grad_norm", report.gradient_norm},
                              {"tokens", report.tokens},    {"epoch", sampler_.epoch()},
                              {"seconds", seconds}};
  if (scaler_.scale() != 1.0) {
    line["loss_scale"] = scaler_.scale();
  }
  if (due(options_.log_every)) {
    line["loss_by_task"] = means_of(state_.window);
    state_.window.clear();
    nlohmann::ordered_json weights = expert_weights_by_task(inputs_.adapter);
    if (!weights.is_null()) {
      line["expert_weights"] = std::move(weights);
    }
  }
  if (log_) {
    const ProcessGroup::FileSection files(ranks_);
    log_->write(line);
  }
}

/// Returns whether this is the best loss so far.
bool Run::validate() {
  const ValidationLoss found = validation_loss(inputs_.model, inputs_.adapter, inputs_.validation, inputs_.tasks,
                                               options_.micro_batch_tokens, ranks_);
  const bool best = !state_.best_loss || found.loss < *state_.best_loss;
  if (best) {
    state_.best_loss = found.loss;
    state_.best_step = state_.step;
  }
  nlohmann::ordered_json line{{"step", state_.step}, {"validation_loss", found.loss}, {"best", best}};
  for (const auto& [task, loss] : found.by_task) {
    line["validation_loss_by_task"][task] = loss;
  }
  if (callbacks_.evaluate) {
    nlohmann::ordered_json evaluation = callbacks_.evaluate(state_.step);
    if (!evaluation.is_null()) {
      line["evaluation"] = std::move(evaluation);
    }
  }
  if (log_) {
    log_->write(line);
  }
  log::info(detail::concat("step ", state_.step, ": validation loss ", found.loss, best ? " (best so far)" : ""));
  return best;
}

void Run::write_checkpoint() {
  if (!writes()) {
    return;
  }
  const ProcessGroup::FileSection files(ranks_);
  log_->sync();
  state_.log_bytes = log_->length();
  state_.loss_scale = scaler_.scale();
  state_.good_steps = scaler_.good_steps();
  state_.seconds = earlier_seconds_ + seconds_since(begin_);
  checkpoints_.write(
      state_, [this](const std::filesystem::path& folder) { save_checkpoint_tensors(inputs_, optimizer_, folder); });
  checkpoints_.prune(options_.keep_checkpoints, state_.best_loss ? state_.best_step : state_.step);
}

void Run::finish(TrainResult& result) {
  result.best_step = state_.best_loss ? state_.best_step : state_.step;
  if (result.best_step != state_.step) {
    load_trained_parameters(inputs_, checkpoints_.path_of(result.best_step));
  }
  const ProcessGroup::FileSection files(ranks_);
  result.result = save_result(inputs_, callbacks_, writes());
}

TrainResult Run::to_the_end() {
  TrainResult result;
  Progress progress(state_.step + 1, options_.steps, options_.log_every, callbacks_.quiet || !writes());
  const std::int64_t validate_every = options_.validate_every > 0 ? options_.validate_every : options_.checkpoint_every;
  while (state_.step < options_.steps && !result.stopped) {
    const SteadyClock::time_point step_begin = SteadyClock::now();
    const StepReport report = one_step();
    result.last_loss = report.loss;
    write_step_line(report, seconds_since(step_begin));
    progress.update(report.step, report.loss, report.learning_rate, report.tokens);
    if (callbacks_.on_step) {
      callbacks_.on_step(report);
    }
    bool checkpoint = due(options_.checkpoint_every);
    if (!inputs_.validation.empty() && due(validate_every)) {
      progress.clear();
      checkpoint |= validate();  // the best parameters are always kept
    }
    // Ranks stop only where all have agreed; one process may also stop for what came after the step.
    result.stopped = (ranks_ != nullptr ? stop_agreed_ : wants_stop()) && state_.step < options_.steps;
    if (checkpoint || result.stopped) {
      write_checkpoint();
    }
  }
  progress.clear();
  if (result.stopped) {
    log::info(detail::concat("stopped after step ", state_.step, " of ", options_.steps, " with a checkpoint in ",
                             checkpoints_.path_of(state_.step).string(), "; resume the run to go on"));
  } else {
    finish(result);
  }
  if (ranks_ != nullptr) {
    ranks_->barrier();  // the files are there on whichever rank this returns
  }
  result.step = state_.step;
  result.best_validation_loss = state_.best_loss;
  result.tokens = state_.tokens;
  result.seconds = earlier_seconds_ + seconds_since(begin_);
  return result;
}

}  // namespace

TrainResult train(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks) {
  check_inputs(inputs, options, callbacks);
  if (options.threads > 0) {
    at::set_num_threads(static_cast<int>(options.threads));
  }
  if (inputs.adapter == nullptr) {
    unfreeze(inputs.model);
  }
  std::optional<OnlyEmbeddings> only_embeddings;
  if (inputs.new_task_only) {
    only_embeddings.emplace(*inputs.adapter);
  }
  return Run(inputs, options, callbacks).to_the_end();
}

ValidationLoss validation_loss(model::CausalLM& model, const AdapterImpl* adapter,
                               const std::vector<data::Example>& examples, const std::vector<std::string>& tasks,
                               std::int64_t micro_batch_tokens, ProcessGroup* ranks) {
  std::vector<const data::Example*> all;
  for (const data::Example& example : examples) {
    all.push_back(&example);
  }
  SampleLosses losses;
  if (ranks == nullptr) {
    losses = evaluate_losses(model, adapter, all, micro_batch_tokens);
  } else {
    const std::vector<std::int64_t> mine = samples_of_rank(all, *ranks);
    std::vector<const data::Example*> part;
    for (const std::int64_t sample : mine) {
      part.push_back(all[static_cast<std::size_t>(sample)]);
    }
    losses = gather_losses(*ranks, all, mine, evaluate_losses(model, adapter, part, micro_batch_tokens));
  }
  LossByTask by_task;
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto& [sum, labels] = by_task[tasks.at(static_cast<std::size_t>(all[i]->task))];
    sum += losses.sums[i];
    labels += losses.labels[i];
  }
  ValidationLoss result;
  result.loss = losses.mean();
  for (const auto& [task, sum_and_labels] : by_task) {
    result.by_task.emplace_back(task, sum_and_labels.first / static_cast<double>(sum_and_labels.second));
  }
  return result;
}

}  // namespace moelora::train
