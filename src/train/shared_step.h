#pragma once
// The gradients of one step, collected in the optimizer: of this process alone, or summed over all ranks.

#include <cstdint>
#include <optional>

#include "moelora/train/loss_scaler.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/step.h"
#include "moelora/train/trainer.h"
#include "train/step_exchange.h"

namespace moelora::train {

class SharedStep {
 public:
  /// All are shared, not copied.
  SharedStep(const TrainInputs& inputs, const TrainingOptions& options, AdamW& optimizer, LossScaler& scaler);

  struct Outcome {
    SampleLosses losses;         ///< Of all samples, whichever rank computed them.
    double gradient_norm = 0.0;  ///< Before clipping.
    bool stop = false;           ///< Whether any rank asked to stop after this step. One process: `stop`.
  };
  /// `step` (the first is 1) names the step in errors. TrainingDiverged if a loss or the gradient is not finite.
  Outcome gradients(const StepSamples& samples, std::int64_t step, bool stop);

 private:
  StepSamples own_part(const StepSamples& samples) const;
  void exchange(const StepSamples& samples, std::vector<at::Tensor>& gradients, Outcome& outcome);

  const TrainInputs& inputs_;
  const TrainingOptions& options_;
  AdamW& optimizer_;
  LossScaler& scaler_;
  double activation_bytes_ = 0.0;         // that a micro-batch may take
  std::optional<StepExchange> exchange_;  // with several ranks
  std::vector<std::int64_t> mine_;        // of the present step's samples
};

}  // namespace moelora::train
