#pragma once
// What a run refuses before it begins, and what it says when memory runs out.

#include <string>

#include "moelora/train/config.h"
#include "moelora/train/trainer.h"

namespace moelora::train {

/// Error: options out of range, no or too long samples, unknown tasks, a callback that is missing.
void check_inputs(const TrainInputs& inputs, const TrainingOptions& options, const Callbacks& callbacks);

/// The text of io::OutOfMemory: what to lower.
std::string out_of_memory(const TrainingOptions& options);

}  // namespace moelora::train
