#include "moelora/train/optimizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "moelora/io/error.h"
#include "nn/kernels/cuda/unscale.h"
#include "nn/move_together.h"

namespace moelora::train {

AdamW::AdamW(io::NamedTensors parameters, const AdamWOptions& options, std::vector<double> learning_rate_ratios)
    : parameters_(std::move(parameters)), options_(options), learning_rate_ratios_(std::move(learning_rate_ratios)) {
  if (learning_rate_ratios_.empty()) {
    learning_rate_ratios_.assign(parameters_.size(), 1.0);
  }
  MOELORA_CHECK(learning_rate_ratios_.size() == parameters_.size(), "expected a ratio of learning rates for each of ",
                parameters_.size(), " parameters, found ", learning_rate_ratios_.size());
  for (const auto& [name, parameter] : parameters_) {
    MOELORA_CHECK(parameter.is_contiguous(), "expected a contiguous parameter, found ", name, " with strides ",
                  parameter.strides());
    const at::Tensor values = parameter.detach();
    masters_.push_back(values.scalar_type() == at::kFloat ? values : values.to(at::kFloat));
    exp_avg_.push_back(at::zeros_like(masters_.back()));
    exp_avg_sq_.push_back(at::zeros_like(masters_.back()));
  }
  const auto count = static_cast<std::int64_t>(parameters_.size());
  steps_ = at::zeros({count}, count > 0 ? masters_.front().options() : at::TensorOptions(at::kFloat));
  step_counts_ = steps_.unbind();
  gradients_.resize(parameters_.size());
}

/// Fills gradients_; returns those that there are.
std::vector<at::Tensor> AdamW::take_gradients(const Exchange& exchange) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& gradient = parameters_[i].second.grad();
    gradients_[i] = gradient.defined() ? gradient.to(at::kFloat).contiguous() : at::Tensor();
  }
  if (exchange) {
    exchange(gradients_);
  }
  std::vector<at::Tensor> present;
  for (const at::Tensor& gradient : gradients_) {
    if (gradient.defined()) {
      present.push_back(gradient);
    }
  }
  collected_ = true;
  grad_scale_.reset();
  found_inf_.reset();
  return present;
}

double AdamW::collect_gradients(double loss_scale, double max_norm, const Exchange& exchange) {
  at::NoGradGuard no_grad;
  const std::vector<at::Tensor> present = take_gradients(exchange);
  if (present.empty()) {
    return 0.0;
  }
  const double norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(present))).item<double>() / loss_scale;
  if (!std::isfinite(norm)) {
    return norm;
  }
  const bool clips = max_norm > 0.0 && norm > max_norm;
  const double factor = (clips ? max_norm / (norm + 1e-6) : 1.0) / loss_scale;
  if (factor != 1.0) {
    at::_foreach_mul_(present, factor);
  }
  return norm;
}

at::Tensor AdamW::collect_on_device(const at::Tensor& loss_scale, double max_norm, const Exchange& exchange) {
  at::NoGradGuard no_grad;
  const std::vector<at::Tensor> present = take_gradients(exchange);
  if (present.empty()) {
    found_inf_ = at::zeros({}, steps_.options());
    return found_inf_;
  }
  if (nn::kernels::has_unscale_kernels(present)) {
    const nn::kernels::StepDecision decision = nn::kernels::decide_step(present, loss_scale, max_norm);
    found_inf_ = decision.found_inf;
    grad_scale_ = decision.grad_scale;
    return decision.norm;
  }
  at::Tensor norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(present)));
  if (loss_scale.defined()) {
    norm.div_(loss_scale);
    grad_scale_ = loss_scale;
  }
  found_inf_ = norm.mul(0.0).ne_(0.0);  // infinity · 0 is NaN, and NaN differs from everything
  if (max_norm > 0.0) {
    const at::Tensor divisor = norm.add(1e-6).div_(max_norm).clamp_min_(1.0);
    grad_scale_ = grad_scale_.defined() ? grad_scale_ * divisor : divisor;
  }
  return norm;
}

/// Of the parameters that have a gradient, unless the step is skipped.
void AdamW::count_step() {
  std::vector<bool> present;
  for (const at::Tensor& gradient : gradients_) {
    present.push_back(gradient.defined());
  }
  if (present != present_) {
    at::Tensor is_present = at::zeros({steps_.size(0)});
    for (std::size_t i = 0; i < present.size(); ++i) {
      is_present.mutable_data_ptr<float>()[i] = present[i] ? 1.0F : 0.0F;
    }
    nn::move_together({&is_present}, steps_.device());
    is_present_ = is_present;
    present_ = std::move(present);
  }
  if (found_inf_.defined()) {
    steps_.addcmul_(is_present_, at::rsub(found_inf_, 1.0));
  } else {
    steps_.add_(is_present_);
  }
}

void AdamW::step(double learning_rate) {
  at::NoGradGuard no_grad;
  if (!collected_) {
    take_gradients({});
  }
  count_step();
  struct Group {
    std::vector<at::Tensor> values, gradients, first, second, counts;
  };
  std::map<double, Group> groups;  // by ratio of learning rates
  std::vector<at::Tensor> rounded;
  std::vector<at::Tensor> masters;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients_[i].defined()) {
      continue;
    }
    Group& group = groups[learning_rate_ratios_[i]];
    group.values.push_back(masters_[i]);
    group.gradients.push_back(gradients_[i]);
    group.first.push_back(exp_avg_[i]);
    group.second.push_back(exp_avg_sq_[i]);
    group.counts.push_back(step_counts_[i]);
    if (parameters_[i].second.scalar_type() != at::kFloat) {
      rounded.push_back(parameters_[i].second);
      masters.push_back(masters_[i]);
    }
  }
  const auto given = [](const at::Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
  for (auto& [ratio, group] : groups) {
    at::_fused_adamw_(group.values, group.gradients, group.first, group.second, {}, group.counts, learning_rate * ratio,
                      options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false, given(grad_scale_), given(found_inf_));
  }
  if (!rounded.empty()) {
    at::_foreach_copy_(rounded, masters);
  }
  collected_ = false;
}

void AdamW::clear_gradients() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].second.mutable_grad() = at::Tensor();
    gradients_[i] = at::Tensor();
  }
  collected_ = false;
}

io::NamedTensors AdamW::state() const {
  io::NamedTensors state;
  state.emplace_back("steps", steps_.to(at::kCPU).to(at::kLong));
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, parameter] = parameters_[i];
    state.emplace_back("exp_avg." + name, exp_avg_[i]);
    state.emplace_back("exp_avg_sq." + name, exp_avg_sq_[i]);
    if (parameter.scalar_type() != at::kFloat) {
      state.emplace_back("master." + name, masters_[i]);
    }
  }
  return state;
}

void AdamW::load_state(const std::map<std::string, at::Tensor>& state) {
  at::NoGradGuard no_grad;
  std::string problems;
  const auto copy = [&](const std::string& name, const at::Tensor& target) {
    const auto found = state.find(name);
    if (found == state.end()) {
      problems += "\n  missing: " + name;
    } else if (found->second.sizes() != target.sizes()) {
      problems += detail::concat("\n  ", name, ": expected ", target.sizes(), ", found ", found->second.sizes());
    } else {
      target.copy_(found->second);
    }
  };
  copy("steps", steps_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const auto& [name, parameter] = parameters_[i];
    copy("exp_avg." + name, exp_avg_[i]);
    copy("exp_avg_sq." + name, exp_avg_sq_[i]);
    if (parameter.scalar_type() != at::kFloat) {
      copy("master." + name, masters_[i]);
    }
  }
  MOELORA_CHECK(problems.empty(), "the optimizer's state does not fit the parameters:", problems,
                "\nresume with the configuration that the run began with");
}

}  // namespace moelora::train
