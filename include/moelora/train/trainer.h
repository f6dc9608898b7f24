#pragma once
// The trainer: one loop for adapters (base frozen), for full-parameter training, and for one new task of an adapter.
//
// OUTPUT/adapter/ or OUTPUT/model/   the result: the best checkpoint by validation loss, else the last
// OUTPUT/checkpoints/step-N/         what a run is resumed from (train/checkpoint.h)
// OUTPUT/log.jsonl                   a line for each step and each validation, and for settings changed on resuming
// OUTPUT/set-aside-N/                what was left behind by going back to an earlier checkpoint (train/run_folder.h)
//
// Everything is checked before anything is written: a run that is refused leaves all files as they were. One process
// at a time writes into OUTPUT (io/folder_lock.h).
//
// A step: samples from the sampler, packed into micro-batches, forward and backward, clipping, AdamW. A run that is
// stopped or killed at any moment and resumed ends with the same losses and the same bytes (same machine, build,
// threads, ranks). A validation loss that is not finite is never the best; the second one in a row ends the run with
// an error, and so does the last one if none was finite.
//
// Several ranks (train/process_group.h) divide each step's samples among them by tokens and add up their gradients: the
// losses are those of one process but for rounding (1e-5 relative). Rank 0 writes all files; the others read them when
// a run is resumed, so all need to see the same output folder.

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/model/causal_lm.h"
#include "moelora/train/config.h"
#include "moelora/train/process_group.h"

namespace moelora::train {

/// What is trained, on what, and where the result goes. The referenced objects must outlive train().
struct TrainInputs {
  model::CausalLM& model;
  AdapterImpl* adapter = nullptr;  ///< Null: every parameter of the model is trained.
  const std::vector<data::Example>& train;
  const std::vector<data::Example>& validation;  ///< May be empty.
  std::vector<std::string> tasks;                ///< Names behind Example::task.
  std::filesystem::path output;
  bool resume = false;  ///< Go on from the newest checkpoint that is whole; if there is none at all, begin anew.
  /// Recorded in adapters and checkpoints; the base's is compared on resuming. May be empty.
  std::string base_fingerprint;
  std::string tokenizer_fingerprint;
  nlohmann::ordered_json provenance;  ///< Stored in the adapter's folder as given.
  ProcessGroup* ranks = nullptr;      ///< Null: one process.
  /// Only the embedding of the adapter's last task is trained (with_new_task(), one row for each gate); all training
  /// samples are of that task. Every other byte of the adapter stays.
  bool new_task_only = false;
  /// Go on from this checkpoint, whatever `resume` says; what came after it is set aside.
  std::optional<std::int64_t> resume_from = {};
  /// Of "dtype" and "device": what may differ from the run that is resumed (train/run_identity.h).
  std::set<std::string> allowed_changes = {};
  /// Fingerprint of the adapter's values, where the run begins with those of another adapter.
  std::string begins_from = {};
  bool locked = false;  ///< The caller holds the io::FolderLock of `output`; else it is taken.
};

struct StepReport {
  std::int64_t step = 0;  ///< Steps done, this one included.
  double loss = 0.0;      ///< Mean over the step's labels, nats.
  double learning_rate = 0.0;
  double gradient_norm = 0.0;  ///< Before clipping.
  std::int64_t tokens = 0;     ///< Rows computed.
  bool skipped = false;        ///< The gradients overflowed in fp16: nothing was changed (train/loss_scaler.h).
};

struct Callbacks {
  /// Full mode: writes a loadable model into an existing folder. Required there.
  std::function<void(const std::filesystem::path& folder)> save_model;
  /// After all checks, before the first step, on the rank that writes: what is put into `output` here belongs to a run
  /// that was not refused.
  std::function<void()> on_begin;
  /// After each validation, on every rank; what it returns on rank 0 becomes "evaluation" in the log (null: nothing).
  std::function<nlohmann::ordered_json(std::int64_t step)> evaluate;
  /// After each step. On a device that is when its numbers have arrived, which is not waited for: some steps later.
  std::function<void(const StepReport&)> on_step;
  /// Set (by a signal handler; on any rank) to end after the current step with a checkpoint.
  const std::atomic<bool>* stop = nullptr;
  bool quiet = false;  ///< No progress on stderr; only rank 0 has any.
};

struct TrainResult {
  std::int64_t step = 0;  ///< Steps done, earlier sessions included.
  bool stopped = false;   ///< By Callbacks::stop; the result was not written, the run can be resumed.
  double last_loss = 0.0;
  std::optional<double> best_validation_loss;
  std::int64_t best_step = 0;    ///< The step whose parameters are the result.
  std::int64_t tokens = 0;       ///< Rows computed, earlier sessions included.
  double seconds = 0.0;          ///< Earlier sessions included.
  std::filesystem::path result;  ///< OUTPUT/adapter or OUTPUT/model; empty if stopped.
};

/// Trains to the last step. Afterwards the model or adapter holds the parameters of the result.
/// Error: options out of range, no or too long samples, an output folder that holds another run or that another process
/// writes to, a run that cannot be resumed (other settings, no whole checkpoint), a full disk, ranks with different
/// settings. TrainingDiverged: a loss or gradient is not finite (names the step and the samples; in fp16 only when no
/// smaller loss scale helps; on a device it is found some steps later, before anything is saved). io::OutOfMemory: too
/// little memory. RankLost: another rank is lost or has ended.
TrainResult train(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks = {});

/// Mean loss over all labels, and by task name. Of several ranks each computes a part, and all get the whole.
struct ValidationLoss {
  double loss = 0.0;
  std::vector<std::pair<std::string, double>> by_task;
  /// Ids of the samples whose loss is not finite, by task; empty if all are.
  std::vector<std::pair<std::string, std::vector<std::string>>> not_finite;
};
ValidationLoss validation_loss(model::CausalLM& model, const AdapterImpl* adapter,
                               const std::vector<data::Example>& examples, const std::vector<std::string>& tasks,
                               std::int64_t micro_batch_tokens, ProcessGroup* ranks = nullptr);

}  // namespace moelora::train
