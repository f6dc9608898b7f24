#pragma once
// The folder of a run as a whole: whether one is a run's, and what happens to what a resumed run leaves behind.

#include <cstdint>
#include <filesystem>
#include <string>

#include "moelora/train/checkpoint.h"

namespace moelora::train {

/// Error unless `folder` is missing, or a run's (it has checkpoints, or a log of steps), or holds nothing but what a
/// run that was broken off at its very beginning leaves. Resuming must not write into a model's or an adapter's folder.
/// Reads only.
void check_run_folder(const std::filesystem::path& folder);

/// Moves the checkpoints after `step`, and with `result` also adapter/ and model/, into a new folder
/// OUTPUT/set-aside-N, with a copy of log.jsonl as it is; says so. Nothing happens if there is nothing to move, unless
/// `log` asks for the copy alone. Interrupted, it leaves a run that can be resumed.
void set_aside(const std::filesystem::path& output, const CheckpointFolder& checkpoints, std::int64_t step, bool result,
               bool log);

/// What to do after divergence, as the end of an error's text: how to go back to one of the checkpoints there are.
std::string advice_to_go_back(const std::filesystem::path& output);

}  // namespace moelora::train
