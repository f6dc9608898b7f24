#include "train/resume.h"

#include <ATen/Parallel.h>
#include <c10/core/DeviceType.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/log/log.h"
#include "moelora/train/run_folder.h"
#include "train/new_task_only.h"
#include "train/run_files.h"

namespace moelora::train {
namespace {

/// The checkpoint that was asked for. One whose best one is lost is taken, without it: whoever names a step has
/// decided.
RunState named_checkpoint(const CheckpointFolder& checkpoints, std::int64_t step) {
  RunState state;
  try {
    state = checkpoints.read(step);
  } catch (const std::exception& error) {
    throw Error(detail::concat("cannot resume from step-", step, ": ", error.what(),
                               "; nothing was changed, there are ", listed_steps(checkpoints.steps())));
  }
  if (state.best_loss && state.best_step != step) {
    try {
      checkpoints.read(state.best_step);
    } catch (const std::exception& error) {
      log::warning(detail::concat("the best checkpoint so far, step-", state.best_step, ", cannot be used: ",
                                  error.what(), "; the result will be the best of what comes after step ", step));
      state.best_loss.reset();
      state.best_step = 0;
    }
  }
  return state;
}

}  // namespace

RunIdentity identity_of(const TrainInputs& inputs, const TrainingOptions& options) {
  RunIdentity identity;
  identity.options = options.to_json().dump();
  if (inputs.adapter != nullptr) {
    nlohmann::ordered_json adapter = inputs.adapter->config().to_json();
    adapter["tasks"] = inputs.adapter->tasks().names();
    if (inputs.new_task_only) {
      adapter["trained_before"] = fingerprint_of_frozen(*inputs.adapter);
    }
    if (!inputs.begins_from.empty()) {
      adapter["begins_from"] = inputs.begins_from;
    }
    identity.adapter = adapter.dump();
  }
  identity.data_hash = examples_hash(inputs.train, inputs.validation);
  identity.base_fingerprint = inputs.base_fingerprint;
  identity.threads = at::get_num_threads();
  identity.ranks = inputs.ranks != nullptr ? inputs.ranks->size() : 1;
  identity.dtype = io::dtype_name(inputs.model.dtype());
  identity.device = c10::DeviceTypeName(inputs.model.device().type(), /*lower_case=*/true);
  return identity;
}

std::optional<Resumption> find_resumption(const TrainInputs& inputs, const TrainingOptions& options,
                                          const CheckpointFolder& checkpoints, const RunIdentity& now) {
  if (!inputs.resume && !inputs.resume_from) {
    const bool writes = inputs.ranks == nullptr || inputs.ranks->is_first();
    MOELORA_CHECK(!writes || (checkpoints.steps().empty() && !std::filesystem::exists(inputs.output / "log.jsonl")),
                  inputs.output.string(), " holds a run already; resume it or choose another output folder");
    return std::nullopt;
  }
  check_run_folder(inputs.output);
  std::optional<RunState> saved =
      inputs.resume_from ? named_checkpoint(checkpoints, *inputs.resume_from) : checkpoints.newest();
  if (!saved) {
    return std::nullopt;
  }
  Resumption resumption;
  resumption.changes = check_same_run(saved->identity, now, saved->step, inputs.allowed_changes);
  MOELORA_CHECK(saved->step <= options.steps, "expected training.steps of at least ", saved->step,
                ", the steps that are done, found ", options.steps,
                "; raise it, or take an earlier checkpoint (--resume-from; there are ",
                listed_steps(checkpoints.steps()), ")");
  resumption.same_dtype = saved->identity.dtype.empty() || saved->identity.dtype == now.dtype;
  resumption.state = std::move(*saved);
  resumption.state.identity = now;
  auto& all = resumption.state.changes;
  all.insert(all.end(), resumption.changes.begin(), resumption.changes.end());
  return resumption;
}

}  // namespace moelora::train
