#include "moelora/train/trainer.h"

#include <ATen/Parallel.h>

#include <chrono>
#include <cmath>
#include <deque>
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
#include "train/check_inputs.h"
#include "train/new_task_only.h"
#include "train/resume.h"
#include "train/run_files.h"
#include "train/shared_step.h"
#include "train/step_line.h"
#include "train/validation.h"

namespace moelora::train {
namespace {

using SteadyClock = std::chrono::steady_clock;
double seconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

// Steps that a device has computed or will, whose numbers the host has not looked at. More of them only delay the lines
// of the log.
constexpr std::size_t kMostUnread = 64;

AdamW optimizer_of(const TrainInputs& inputs, const TrainingOptions& options) {
  auto trained = trained_parameters(inputs.model, inputs.adapter, inputs.new_task_only);
  auto ratios = learning_rate_ratios(trained, inputs.adapter, options.gate_learning_rate_ratio);
  return {std::move(trained), {options.beta1, options.beta2, options.epsilon, options.weight_decay}, std::move(ratios)};
}

class Run {
 public:
  Run(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks)
      : inputs_(inputs),
        options_(options),
        callbacks_(callbacks),
        sampler_(data::sampler_of(inputs.train, options.batch_size, options.batching, options.seed)),
        optimizer_(optimizer_of(inputs, options)),
        scaler_(inputs.model.dtype() == at::kHalf, inputs.model.device()),
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
  void begin_or_resume();
  void begin_files();
  bool writes() const { return ranks_ == nullptr || ranks_->is_first(); }
  void one_step();
  void read_steps(bool all);
  void read_step();
  void note_losses(const StepOutcome& outcome, const StepSamples& samples);
  void write_step_line(nlohmann::ordered_json line, std::int64_t step, const at::Tensor& expert_weights);
  bool validate();
  void check_validations() const;
  void write_checkpoint();
  void finish(TrainResult& result);
  bool wants_stop() const { return callbacks_.stop != nullptr && callbacks_.stop->load(); }
  bool due(std::int64_t every) const { return due(every, state_.step); }
  bool due(std::int64_t every, std::int64_t step) const { return step % every == 0 || step == options_.steps; }

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

  /// A step that was begun, with what the host knows of it.
  struct Unread {
    BegunStep step;
    StepReport report;
    double epoch = 0.0;
    SteadyClock::time_point begin;
  };
  std::deque<Unread> unread_;        // empty on a CPU, but for the present step
  SteadyClock::time_point read_at_;  // the last one
  std::optional<Progress> progress_;
  double last_loss_ = 0.0;
};

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
      scaler_.restore(state_.loss_scale, state_.good_steps, state_.skipped_steps, state_.skipped_in_a_row);
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

void Run::one_step() {
  Unread next;
  next.begin = SteadyClock::now();
  const data::Sampler::Draw draw = sampler_.next();
  StepSamples samples;
  samples.draws = draw.draws;
  for (const std::int64_t sample : draw.samples) {
    samples.examples.push_back(&inputs_.train[static_cast<std::size_t>(sample)]);
  }
  next.epoch = sampler_.epoch();
  next.report.learning_rate =
      options_.learning_rate * schedule_factor(options_.schedule, state_.step, options_.steps, options_.warmup_steps);
  next.report.step = state_.step + 1;
  next.step = shared_step_.begin(std::move(samples), {.number = next.report.step,
                                                      .stop = wants_stop(),
                                                      .learning_rate = next.report.learning_rate,
                                                      .expert_weights = due(options_.log_every, next.report.step)});
  stop_agreed_ = next.step.stop;
  ++state_.step;
  unread_.push_back(std::move(next));
}

/// Looks at the steps that have been computed, in their order; at all of them if `all`, which waits for a device.
void Run::read_steps(bool all) {
  while (!unread_.empty() && (all || unread_.size() > kMostUnread || unread_.front().step.arrived())) {
    read_step();
  }
}

void Run::read_step() {
  Unread next = std::move(unread_.front());
  unread_.pop_front();
  const StepOutcome outcome = shared_step_.read(next.step);
  next.report.loss = outcome.losses.mean();
  next.report.gradient_norm = outcome.gradient_norm;
  next.report.skipped = outcome.skipped;
  next.report.tokens = outcome.losses.tokens;
  state_.tokens += outcome.losses.tokens;
  last_loss_ = next.report.loss;
  note_losses(outcome, next.step.samples);
  const double seconds = seconds_since(std::max(next.begin, read_at_));  // steps on a device overlap
  read_at_ = SteadyClock::now();
  write_step_line(step_line(next.report, next.epoch, seconds, scaler_), next.report.step, outcome.expert_weights);
  progress_->update(next.report.step, next.report.loss, next.report.learning_rate, next.report.tokens);
  if (callbacks_.on_step) {
    callbacks_.on_step(next.report);
  }
}

void Run::note_losses(const StepOutcome& outcome, const StepSamples& samples) {
  const SampleLosses& losses = outcome.losses;
  for (std::size_t i = 0; i < losses.sums.size(); ++i) {
    if (!std::isfinite(losses.sums[i])) {
      continue;  // of a skipped step
    }
    auto& [sum, labels] = state_.window[inputs_.tasks[static_cast<std::size_t>(samples.examples[i]->task)]];
    sum += losses.sums[i];
    labels += losses.labels[i];
  }
}

void Run::write_step_line(nlohmann::ordered_json line, std::int64_t step, const at::Tensor& expert_weights) {
  if (due(options_.log_every, step)) {
    line["loss_by_task"] = means_of(state_.window);
    state_.window.clear();
    nlohmann::ordered_json weights = expert_weights_to_json(inputs_.adapter, expert_weights);
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
  state_.skipped_steps = scaler_.skipped_steps();
  state_.skipped_in_a_row = scaler_.skipped_in_a_row();
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
  progress_.emplace(state_.step + 1, options_.steps, options_.log_every, callbacks_.quiet || !writes());
  const std::int64_t validate_every = options_.validate_every > 0 ? options_.validate_every : options_.checkpoint_every;
  while (state_.step < options_.steps && !result.stopped) {
    one_step();
    read_steps(false);
    bool checkpoint = due(options_.checkpoint_every);
    const bool validated = !inputs_.validation.empty() && due(validate_every);
    if (validated) {
      read_steps(true);
      progress_->clear();
      checkpoint |= validate();  // the best parameters are always kept
    }
    // Ranks stop only where all have agreed; one process may also stop for what came after the step.
    result.stopped = (ranks_ != nullptr ? stop_agreed_ : wants_stop()) && state_.step < options_.steps;
    if (checkpoint || result.stopped) {
      read_steps(true);
      write_checkpoint();
    }
    if (validated && !result.stopped) {
      check_validations();
    }
  }
  progress_->clear();
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
  result.last_loss = last_loss_;
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
