#include "moelora/train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "moelora/io/error.h"

namespace moelora::train {

AdamW::AdamW(io::NamedTensors parameters, const AdamWOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const auto& [name, parameter] : parameters_) {
    MOELORA_CHECK(parameter.is_contiguous(), "expected a contiguous parameter, found ", name, " with strides ",
                  parameter.strides());
    const at::Tensor values = parameter.detach();
    masters_.push_back(values.scalar_type() == at::kFloat ? values : values.to(at::kFloat));
    exp_avg_.push_back(at::zeros_like(masters_.back()));
    exp_avg_sq_.push_back(at::zeros_like(masters_.back()));
  }
  steps_.resize(parameters_.size(), 0);
  gradients_.resize(parameters_.size());
}

double AdamW::collect_gradients(double loss_scale, double max_norm, const Exchange& exchange) {
  at::NoGradGuard no_grad;
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

void AdamW::step(double learning_rate) {
  at::NoGradGuard no_grad;
  if (!collected_) {
    collect_gradients(1.0, 0.0);
  }
  std::vector<at::Tensor> values;
  std::vector<at::Tensor> gradients;
  std::vector<at::Tensor> first;
  std::vector<at::Tensor> second;
  std::vector<at::Tensor> counts;
  std::map<std::int64_t, at::Tensor> count_tensors;  // nearly always one: all parameters have taken the same steps
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!gradients_[i].defined()) {
      continue;
    }
    at::Tensor& count = count_tensors[++steps_[i]];
    if (!count.defined()) {
      count = at::full({}, static_cast<double>(steps_[i]), masters_[i].options());
    }
    values.push_back(masters_[i]);
    gradients.push_back(gradients_[i]);
    first.push_back(exp_avg_[i]);
    second.push_back(exp_avg_sq_[i]);
    counts.push_back(count);
  }
  if (!values.empty()) {
    at::_fused_adamw_(values, gradients, first, second, {}, counts, learning_rate, options_.beta1, options_.beta2,
                      options_.weight_decay, options_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (gradients_[i].defined() && parameters_[i].second.scalar_type() != at::kFloat) {
      parameters_[i].second.copy_(masters_[i]);
    }
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
  at::Tensor steps = at::empty({static_cast<std::int64_t>(steps_.size())}, at::kLong);
  std::copy(steps_.begin(), steps_.end(), steps.data_ptr<std::int64_t>());
  state.emplace_back("steps", steps);
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
  const auto copy = [&](const std::string& name, at::Tensor target) {
    const auto found = state.find(name);
    if (found == state.end()) {
      problems += "\n  missing: " + name;
    } else if (found->second.sizes() != target.sizes()) {
      problems += detail::concat("\n  ", name, ": expected ", target.sizes(), ", found ", found->second.sizes());
    } else {
      target.copy_(found->second);
    }
  };
  at::Tensor steps = at::empty({static_cast<std::int64_t>(steps_.size())}, at::kLong);
  copy("steps", steps);
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
  std::copy_n(steps.data_ptr<std::int64_t>(), steps_.size(), steps_.begin());
}

}  // namespace moelora::train
