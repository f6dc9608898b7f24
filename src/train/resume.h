#pragma once
// What a run is recognised by, and from which checkpoint it goes on, found before anything is written.

#include <optional>
#include <vector>

#include "moelora/train/checkpoint.h"
#include "moelora/train/trainer.h"

namespace moelora::train {

struct Resumption {
  RunState state;                  ///< Of the checkpoint; `identity` and `changes` are this session's.
  std::vector<RunChange> changes;  ///< Those of this session alone.
  bool same_dtype = true;          ///< Else the loss scale begins anew.
};

/// With the number of threads that are set now.
RunIdentity identity_of(const TrainInputs& inputs, const TrainingOptions& options);

/// With `resume`: the newest whole checkpoint, or the one that `resume_from` names. Nothing: the run begins anew.
/// Error: a folder that is no run's or holds another run, no usable checkpoint among those present, settings that
/// make another run.
std::optional<Resumption> find_resumption(const TrainInputs& inputs, const TrainingOptions& options,
                                          const CheckpointFolder& checkpoints, const RunIdentity& now);

}  // namespace moelora::train
