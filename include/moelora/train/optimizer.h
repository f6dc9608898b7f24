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
  /// The parameters are shared, not copied. `learning_rate_ratios` [parameters]: what step()'s learning rate is
  /// multiplied with for each, as PyTorch's parameter groups have rates of their own; empty: 1.
  AdamW(io::NamedTensors parameters, const AdamWOptions& options, std::vector<double> learning_rate_ratios = {});

  /// Takes the parameters' gradients, divides them by `loss_scale`, and scales them down to a global norm of `max_norm`
  /// (0: no limit). Returns the norm before clipping; if it is not finite, the gradients are not to be used.
  /// `exchange` may replace the gradients as they were taken ([parameters] fp32, undefined where none; their own
  /// shapes) by those of all ranks.
  using Exchange = std::function<void(std::vector<at::Tensor>& gradients)>;
  double collect_gradients(double loss_scale, double max_norm, const Exchange& exchange = {});
  /// The same without waiting for the parameters' device: the scale (0-dim fp32; undefined: 1), the norm that is
  /// returned (0-dim fp32) and found_inf() are there, and the next step() leaves everything as it is where the norm is
  /// not finite. Scaling and clipping are done by that step.
  at::Tensor collect_on_device(const at::Tensor& loss_scale, double max_norm, const Exchange& exchange = {});
  /// 0-dim fp32: 1 where the norm of collect_on_device() is not finite, else 0.
  const at::Tensor& found_inf() const { return found_inf_; }
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
  std::vector<at::Tensor> take_gradients(const Exchange& exchange);
  void count_step();

  io::NamedTensors parameters_;
  AdamWOptions options_;
  std::vector<double> learning_rate_ratios_;
  std::vector<at::Tensor> masters_;  ///< The parameter itself if it is fp32.
  std::vector<at::Tensor> exp_avg_;
  std::vector<at::Tensor> exp_avg_sq_;
  at::Tensor steps_;                     ///< [parameters] fp32, on their device: counts, exact up to 2^24
  std::vector<at::Tensor> step_counts_;  ///< Its elements, 0-dim.
  std::vector<at::Tensor> gradients_;    ///< Collected, fp32; undefined where a parameter has none.
  std::vector<bool> present_;            ///< Which parameters had a gradient in the last step,
  at::Tensor is_present_;                ///< the same as [parameters] fp32.
  at::Tensor grad_scale_;  ///< 0-dim fp32: what the gradients are still to be divided by; may be undefined.
  at::Tensor found_inf_;
  bool collected_ = false;
};

}  // namespace moelora::train
