#pragma once
// The error of a run that left the range of numbers: a loss or gradient of a step, or the validation losses, are not
// finite. Usually the learning rate is too large, and a search of one goes on with the next.

#include "moelora/io/error.h"

namespace moelora::train {

/// The text names the step and the samples, and how to go back to a checkpoint.
class TrainingDiverged : public Error {
 public:
  using Error::Error;
};

}  // namespace moelora::train
