#pragma once
// A step's line of log.jsonl.

#include <cstdint>
#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter.h"
#include "moelora/train/loss_scaler.h"
#include "moelora/train/trainer.h"

namespace moelora::train {

/// step, loss, lr, grad_norm, tokens, epoch, seconds; with loss scaling loss_scale (after the step), and of a skipped
/// step skipped and skipped_steps (of the run so far). Numbers that are not finite are null.
nlohmann::ordered_json step_line(const StepReport& report, double epoch, double seconds, const LossScaler& scaler);

/// `weights` [K, N] fp32 on the CPU as {task: [N]}; null if they are undefined.
nlohmann::ordered_json expert_weights_to_json(const AdapterImpl* adapter, const at::Tensor& weights);

}  // namespace moelora::train
