#pragma once
// One step of training: gradients of this process alone, or summed over all ranks, and what AdamW makes of them. On a
// device a step is begun, and read when it has been computed: nothing in between waits.

#include <cstdint>
#include <optional>

#include "moelora/train/loss_scaler.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/step.h"
#include "moelora/train/trainer.h"
#include "nn/host_copy.h"
#include "train/step_exchange.h"

namespace moelora::train {

/// What a step has given.
struct StepOutcome {
  SampleLosses losses;         ///< Of all samples, whichever rank computed them.
  double gradient_norm = 0.0;  ///< Before clipping.
  bool skipped = false;        ///< The gradients overflowed: nothing was changed (train/loss_scaler.h).
  at::Tensor expert_weights;   ///< By task, [K, N] fp32 on the CPU, after the step; undefined unless asked for.
};

/// A step whose numbers may still be on their way.
struct BegunStep {
  std::int64_t number = 0;  ///< The first is 1.
  StepSamples samples;
  bool stop = false;                   ///< Whether any rank asked to stop after this step. One process: as given.
  LabelLosses losses;                  ///< Of all ranks once they have exchanged them; on a CPU that gives sums alone.
  std::optional<nn::HostCopy> copy;    ///< Of the losses, the norm and the expert weights.
  std::optional<StepOutcome> outcome;  ///< There at once on a CPU.

  bool arrived() const { return outcome || copy->arrived(); }
};

class SharedStep {
 public:
  /// All are shared, not copied.
  SharedStep(const TrainInputs& inputs, const TrainingOptions& options, AdamW& optimizer, LossScaler& scaler);

  struct Settings {
    std::int64_t number = 0;
    bool stop = false;
    double learning_rate = 0.0;
    bool expert_weights = false;
  };
  /// Gradients and AdamW's step. On a CPU TrainingDiverged if a loss or the gradient is not finite.
  BegunStep begin(StepSamples samples, const Settings& settings);
  /// Each step once, in their order; waits for what has not arrived. The loss scaler's numbers are then those after
  /// this step. TrainingDiverged as by begin().
  StepOutcome read(BegunStep& step);

 private:
  StepSamples own_part(const StepSamples& samples) const;
  void exchange(BegunStep& step, std::vector<at::Tensor>& gradients);
  void step_on_cpu(BegunStep& step, const Settings& settings, const AdamW::Exchange& over_ranks);
  void step_on_device(BegunStep& step, const Settings& settings, const AdamW::Exchange& over_ranks);
  StepOutcome judged(const BegunStep& step, SampleLosses losses, double gradient_norm);
  void skip(const BegunStep& step, const SampleLosses& losses);
  std::string cause_of_overflow(const StepSamples& samples, const SampleLosses& losses);

  const TrainInputs& inputs_;
  const TrainingOptions& options_;
  AdamW& optimizer_;
  LossScaler& scaler_;
  double activation_bytes_ = 0.0;         // that a micro-batch may take
  std::optional<StepExchange> exchange_;  // with several ranks
  std::vector<std::int64_t> mine_;        // of the present step's samples
};

}  // namespace moelora::train
