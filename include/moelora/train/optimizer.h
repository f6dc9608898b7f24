#pragma once
// AdamW (Loshchilov, Hutter 2019) over named parameters, with the arithmetic of torch.optim.AdamW. Parameters of less
// than fp32 get fp32 master copies, which are rounded back after every step.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "moelora/io/safetensors.h"

namespace moelora::train {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  ///< Of every parameter, as PyTorch's default.
};

class AdamW {
 public:
  /// The parameters are shared, not copied.
  AdamW(io::NamedTensors parameters, const AdamWOptions& options);

  /// Takes the parameters' gradients, divides them by `loss_scale`, and scales them down to a global norm of `max_norm`
  /// (0: no limit). Returns the norm before clipping; if it is not finite, the gradients are not to be used.
  /// `exchange` may replace the gradients as they were taken ([parameters] fp32, undefined where none; their own
  /// shapes) by those of all ranks.
  using Exchange = std::function<void(std::vector<at::Tensor>& gradients)>;
  double collect_gradients(double loss_scale, double max_norm, const Exchange& exchange = {});
  /// One step with the collected gradients (collected as they are if that was not done). Parameters without gradient
  /// stay as they are, their step count too.
  void step(double learning_rate);
  void clear_gradients();  ///< Gradients become undefined.

  const io::NamedTensors& parameters() const { return parameters_; }

  /// "exp_avg.NAME", "exp_avg_sq.NAME" fp32, "steps" int64 [parameters], and "master.NAME" of parameters below fp32.
  io::NamedTensors state() const;
  /// Error naming missing or misshapen tensors.
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  io::NamedTensors parameters_;
  AdamWOptions options_;
  std::vector<at::Tensor> masters_;  ///< The parameter itself if it is fp32.
  std::vector<at::Tensor> exp_avg_;
  std::vector<at::Tensor> exp_avg_sq_;
  std::vector<std::int64_t> steps_;
  std::vector<at::Tensor> gradients_;  ///< Collected, fp32; undefined where a parameter has none.
  bool collected_ = false;
};

}  // namespace moelora::train
