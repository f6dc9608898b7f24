#include "moelora/train/trainer.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <utility>

#include "moelora/data/sampler.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/memory.h"
#include "moelora/log/log.h"
#include "moelora/train/checkpoint.h"
#include "moelora/train/diverged.h"
#include "moelora/train/log.h"
#include "moelora/train/loss_scaler.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/progress.h"
#include "moelora/train/run_folder.h"
#include "moelora/train/step.h"
#include "train/new_task_only.h"
#include "train/resume.h"
#include "train/run_files.h"
#include "train/shared_step.h"
#include "train/validation.h"

namespace moelora::train {
namespace {

using SteadyClock = std::chrono::steady_clock;
double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
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
  const std::int64_t longest = inputs.model.shape().max_sequence_length;
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

std::string out_of_memory(const TrainingOptions& options) {
  return detail::concat("out of memory: lower training.micro_batch_tokens (now ", options.micro_batch_tokens,
                        ") or set training.memory_budget_gb, and resume the run; both may change on resuming");
}

class Run {
 public:
  Run(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks)
      : inputs_(inputs),
        options_(options),
        callbacks_(callbacks),
        sampler_(tasks_of_samples(inputs.train), options.batch_size, options.batching, options.seed),
        optimizer_(trained_parameters(inputs.model, inputs.adapter, inputs.new_task_only),
                   {options.beta1, options.beta2, options.epsilon, options.weight_decay}),
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
    if (writes()) {
      begin_files();  // the first thing that is written; by now all ranks have read what they resume from
    }
  }

  TrainResult to_the_end();

 private:
  static std::vector<std::int64_t> tasks_of_samples(const std::vector<data::Example>& examples);
  void begin_or_resume();
  void begin_files();
  bool writes() const { return ranks_ == nullptr || ranks_->is_first(); }
  StepReport one_step();
  void note_losses(const SampleLosses& losses, const StepSamples& samples);
  void write_step_line(const StepReport& report, double seconds);
  bool validate();
  void check_validations() const;
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
  std::optional<Resumption> resumption_;  // nothing: a new run
  RunState state_;
  std::string not_finite_;  // samples of the last validation
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

/// Reads alone.
void Run::begin_or_resume() {
  const RunIdentity now = identity_of(inputs_, options_);
  resumption_ = find_resumption(inputs_, options_, checkpoints_, now);
  if (resumption_) {
    state_ = resumption_->state;
    const std::filesystem::path folder = checkpoints_.path_of(state_.step);
    load_trained_parameters(inputs_, folder);
    load_optimizer(optimizer_, folder);
    sampler_.restore({state_.sampler_seed, state_.step});
    if (resumption_->same_dtype) {
      scaler_.restore(state_.loss_scale, state_.good_steps);
    }
    earlier_seconds_ = state_.seconds;
    log::info(detail::concat("resuming after step ", state_.step, " of ", options_.steps));
  } else if (inputs_.resume) {
    log::info("no checkpoint to resume from: the run begins anew");
  }
  state_.identity = now;
  state_.sampler_seed = options_.seed;
}

void Run::begin_files() {
  const ProcessGroup::FileSection files(ranks_);
  if (inputs_.resume || inputs_.resume_from) {
    // A result that this session does not go on from: of a run whose checkpoints are gone, or of another course.
    const bool other_course = inputs_.resume_from && state_.step < options_.steps;
    set_aside(inputs_.output, checkpoints_, state_.step, !resumption_ || other_course, other_course);
  }
  log_.emplace(inputs_.output / "log.jsonl", state_.log_bytes);
  if (resumption_ && !resumption_->changes.empty()) {
    log_->write({{"step", state_.step}, {"changes", changes_to_json(resumption_->changes)}});
  }
  if (callbacks_.on_begin) {
    callbacks_.on_begin();
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
  const bool finite = std::isfinite(found.loss);
  const bool best = finite && (!state_.best_loss || found.loss < *state_.best_loss);
  if (best) {
    state_.best_loss = found.loss;
    state_.best_step = state_.step;
  }
  state_.validations_not_finite = finite ? 0 : state_.validations_not_finite + 1;
  not_finite_ = samples_not_finite(found);
  nlohmann::ordered_json line = log_line(found, state_.step, best);
  if (callbacks_.evaluate) {
    nlohmann::ordered_json evaluation = callbacks_.evaluate(state_.step);
    if (!evaluation.is_null()) {
      line["evaluation"] = std::move(evaluation);
    }
  }
  if (log_) {
    log_->write(line);
  }
  if (finite) {
    log::info(detail::concat("step ", state_.step, ": validation loss ", found.loss, best ? " (best so far)" : ""));
  } else {
    log::warning(detail::concat("step ", state_.step, ": the validation loss is not finite, in samples ", not_finite_,
                                "; it cannot be the best"));
  }
  return best;
}

/// TrainingDiverged when validations go on not finite, or the last one leaves no result. Its step's checkpoint is there
/// by then.
void Run::check_validations() const {
  const std::int64_t in_a_row = state_.validations_not_finite;
  const bool last_without_best = state_.step >= options_.steps && !state_.best_loss;
  const bool goes_on = in_a_row == 0 || (in_a_row == 1 && !last_without_best);
  if (!goes_on) {
    throw TrainingDiverged(detail::concat("the validation loss of step ", state_.step, " is not finite, ",
                                          in_a_row > 1
                                              ? detail::concat("as those of the ", in_a_row, " validations up to here")
                                              : std::string("and there is none that is"),
                                          not_finite_.empty() ? std::string() : ", in samples " + not_finite_,
                                          "; look at these records, or ", advice_to_go_back(inputs_.output)));
  }
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
  checkpoints_.write(state_, [this](const std::filesystem::path& folder) {
    save_checkpoint_tensors(inputs_, state_.changes, optimizer_, folder);
  });
  checkpoints_.prune(options_.keep_checkpoints, state_.best_loss ? state_.best_step : state_.step);
}

void Run::finish(TrainResult& result) {
  check_validations();
  result.best_step = state_.best_loss ? state_.best_step : state_.step;
  if (result.best_step != state_.step) {
    try {
      checkpoints_.read(result.best_step);
    } catch (const std::exception& error) {
      throw Error(detail::concat(
          "the best checkpoint, ", checkpoints_.path_of(result.best_step).string(), ", cannot be used: ", error.what(),
          "; no result was written. --resume goes back to a checkpoint from before it, --resume-from step-",
          state_.step, " makes the last step the result"));
    }
    load_trained_parameters(inputs_, checkpoints_.path_of(result.best_step));
  }
  const ProcessGroup::FileSection files(ranks_);
  result.result = save_result(inputs_, state_.changes, callbacks_, writes());
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
    const bool validated = !inputs_.validation.empty() && due(validate_every);
    if (validated) {
      progress.clear();
      checkpoint |= validate();  // the best parameters are always kept
    }
    // Ranks stop only where all have agreed; one process may also stop for what came after the step.
    result.stopped = (ranks_ != nullptr ? stop_agreed_ : wants_stop()) && state_.step < options_.steps;
    if (checkpoint || result.stopped) {
      write_checkpoint();
    }
    if (validated && !result.stopped) {
      check_validations();
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
  std::optional<io::FolderLock> lock;
  if (!inputs.locked && (inputs.ranks == nullptr || inputs.ranks->is_first())) {
    if (inputs.resume || inputs.resume_from) {
      check_run_folder(inputs.output);  // before even the lock is put there
    }
    lock.emplace(inputs.output, "training");
  }
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
  try {
    return Run(inputs, options, callbacks).to_the_end();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    if (!io::is_out_of_memory(error)) {
      throw;
    }
    const auto* of_libtorch = dynamic_cast<const c10::Error*>(&error);
    throw io::OutOfMemory(out_of_memory(options) +
                          (of_libtorch != nullptr ? "\n" + std::string(of_libtorch->what_without_backtrace()) : ""));
  }
}

}  // namespace moelora::train
