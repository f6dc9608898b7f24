#include "train/step_line.h"

#include <vector>

namespace moelora::train {

nlohmann::ordered_json step_line(const StepReport& report, double epoch, double seconds, const LossScaler& scaler) {
  nlohmann::ordered_json line{{"step", report.step},        {"loss", report.loss},
                              {"lr", report.learning_rate}, {"grad_norm", report.gradient_norm},
                              {"tokens", report.tokens},    {"epoch", epoch},
                              {"seconds", seconds}};
  if (scaler.scale() != 1.0) {
    line["loss_scale"] = scaler.scale();
  }
  if (report.skipped) {
    line["skipped"] = true;
    line["skipped_steps"] = scaler.skipped_steps();
  }
  return line;
}

nlohmann::ordered_json expert_weights_to_json(const AdapterImpl* adapter, const at::Tensor& weights) {
  nlohmann::ordered_json json;
  if (weights.defined()) {
    const at::Tensor rows = weights.contiguous();
    for (std::int64_t task = 0; task < rows.size(0); ++task) {
      const float* row = rows.const_data_ptr<float>() + task * rows.size(1);
      json[adapter->tasks().name(task)] = std::vector<float>(row, row + rows.size(1));
    }
  }
  return json;
}

}  // namespace moelora::train
