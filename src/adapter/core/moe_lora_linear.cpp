#include "moelora/adapter/moe_lora_linear.h"

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <ostream>

#include "adapter/core/low_rank_pair.h"
#include "adapter/core/moe_lora_inference.h"
#include "moelora/io/error.h"
#include "moelora/nn/delta_function.h"
#include "moelora/nn/dropout.h"
#include "nn/dropout_mask.h"
#include "nn/kernels/cpu/low_rank_rows.h"
#include "nn/kernels/cuda/dropout.h"
#include "nn/kernels/cuda/low_rank.h"

namespace moelora {
namespace {

// sums [S, N] += scale · Σ of each segment's rows [rows, N]. index_add_ takes as long for a row as for a tensor
// operation, which counts in a small model.
void add_by_segment(const at::Tensor& rows, const at::Tensor& segment_of_row, double scale, at::Tensor sums) {
  if (!rows.is_cpu() || !rows.is_contiguous() || !sums.is_contiguous()) {
    sums.index_add_(0, segment_of_row, rows, scale);
    return;
  }
  const auto experts = rows.size(1);
  const auto factor = static_cast<float>(scale);
  const auto* segment = segment_of_row.const_data_ptr<std::int64_t>();
  const auto* from = rows.const_data_ptr<float>();
  auto* to = sums.mutable_data_ptr<float>();
  for (std::int64_t row = 0; row < rows.size(0); ++row, from += experts) {
    float* sum = to + segment[row] * experts;
    for (std::int64_t expert = 0; expert < experts; ++expert) {
      sum[expert] += factor * from[expert];
    }
  }
}

std::vector<DeltaTensor> moe_lora_tensors(const MoeLoraConfig& config, const LinearSize& linear) {
  std::vector<DeltaTensor> tensors{{"A", {config.rank, linear.in_features}}, {"B", {linear.out_features, config.rank}}};
  if (config.routing == Routing::token) {
    tensors.push_back({"router", {config.num_experts, linear.in_features}});
  }
  return tensors;
}

// Gradient for ω [rows, N] of Σ_samples weight · N · Σ_i f_i P_i (RouterConfig::balance_loss); f has no gradient.
at::Tensor balance_gradient(const at::Tensor& omega, const nn::RowContext& context) {
  const auto segments = context.segments.count();
  const auto experts = omega.size(1);
  const at::Tensor chosen = at::one_hot(omega.argmax(1), experts).to(at::kFloat);
  const at::Tensor counts =
      at::zeros({segments, experts}, omega.options()).index_add_(0, context.segment_of_row, chosen);
  const at::Tensor rows = counts.sum(1, /*keepdim=*/true).clamp_min_(1.0);
  const at::Tensor of_segment =
      counts / (rows * rows) * context.sample_weights.unsqueeze(1) * static_cast<double>(experts);
  return of_segment.index_select(0, context.segment_of_row);
}

}  // namespace

MoeLoraLinearImpl::MoeLoraLinearImpl(std::int64_t in_features, std::int64_t out_features, const MoeLoraConfig& config,
                                     std::int64_t gate, std::uint64_t key)
    : single_(config.routing == Routing::single && config.num_experts > 1),
      experts_(config.num_experts),
      scaling_(config.scaling()),
      dropout_(config.dropout),
      balance_(config.router.balance_loss),
      gate_(gate),
      key_(key) {
  for (const auto& [name, shape] : moe_lora_tensors(config, {in_features, out_features})) {
    at::Tensor& member = name == "A" ? A : name == "B" ? B : router;
    member = register_parameter(name, at::zeros(shape));
  }
}

void MoeLoraLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "moelora::MoeLoraLinear(in_features=" << A.size(1) << ", out_features=" << B.size(0)
         << ", rank=" << A.size(0) << ", experts=" << experts_ << ")";
}

void MoeLoraLinearImpl::reset_parameters(at::Generator generator) {
  at::NoGradGuard guard;
  A.normal_(0.0, 0.01, generator);
  B.zero_();
  if (router.defined()) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(router.size(1)));
    router.uniform_(-bound, bound, std::move(generator));
  }
}

std::vector<at::Tensor> MoeLoraLinearImpl::trained() const {
  return routes_tokens() ? std::vector<at::Tensor>{A, B, router} : std::vector<at::Tensor>{A, B};
}

MoeLoraLinearImpl::Omega MoeLoraLinearImpl::omega_of(const at::Tensor& x, const nn::RowContext& context) const {
  if (routes_tokens()) {
    const at::Tensor logits = at::linear(x.to(at::kFloat), router);  // [rows, N]
    return {at::softmax(logits, 1), at::arange(x.size(0), context.segment_of_row.options())};
  }
  if (experts_ == 1) {
    return {{}, context.segment_of_row};
  }
  return {weights_of_gate(context, gate_, experts_), context.segment_of_row};
}

std::vector<std::int64_t> MoeLoraLinearImpl::expert_of_segment(const Omega& omega,
                                                               const nn::RowContext& context) const {
  if (!single_ || context.expert_weights.requires_grad() || !omega.weights.is_cpu()) {
    return {};  // the stacked form; on a device always, where looking at ω would be a wait
  }
  const auto weights = omega.weights.accessor<float, 2>();
  std::vector<std::int64_t> experts(static_cast<std::size_t>(weights.size(0)), -1);
  for (std::int64_t segment = 0; segment < weights.size(0); ++segment) {
    std::int64_t& chosen = experts[static_cast<std::size_t>(segment)];
    for (std::int64_t i = 0; i < experts_; ++i) {
      if (weights[segment][i] == 1.0f && chosen < 0) {
        chosen = i;
      } else if (weights[segment][i] != 0.0f) {
        return {};
      }
    }
    if (chosen < 0) {
      return {};
    }
  }
  return experts;
}

at::Tensor MoeLoraLinearImpl::diagonal(const Omega& omega, std::int64_t segments) const {
  const auto rank = A.size(0);
  if (!omega.weights.defined()) {
    return at::full({segments, rank}, scaling_, A.options().requires_grad(false));
  }
  return (omega.weights * scaling_).repeat_interleave(rank / experts_, 1);
}

at::Tensor MoeLoraLinearImpl::begin_forward(const at::Tensor& x, const at::Tensor& bias, const nn::RowContext& context,
                                            at::Tensor& tape) const {
  at::NoGradGuard no_grad;
  const Omega omega = omega_of(x, context);
  if (x.is_cpu() && x.scalar_type() == at::kFloat) {
    return nn::kernels::low_rank_forward(call(omega, context), x.contiguous(), bias, tape);
  }
  if (nn::kernels::supports_device_low_rank(x, A, B)) {
    return nn::kernels::low_rank_forward(device_call(omega, context), x, bias, tape);
  }
  const at::Tensor dropped = nn::apply_keyed_dropout(x, dropout_, key_, context);
  tape = at::mm(dropped, A.to(x.scalar_type()).t());
  const at::Tensor weights =
      diagonal(omega, context.segments.count()).index_select(0, omega.of_row).to(x.scalar_type());
  const at::Tensor v = tape * weights;
  const at::Tensor b = B.to(x.scalar_type()).t();
  return bias.defined() ? at::addmm(bias, v, b) : at::mm(v, b);
}

void MoeLoraLinearImpl::finish_backward(const at::Tensor& dy, const nn::RowSource& x, const at::Tensor& tape,
                                        const nn::RowContext& context, at::Tensor& dx,
                                        nn::DeltaGradients& gradients) const {
  at::NoGradGuard no_grad;
  const bool need_omega = experts_ > 1 && (routes_tokens() || gradients.expert_weights.defined());
  // A router looks at the rows themselves, and its part of dx comes before their derivative.
  const at::Tensor rows = routes_tokens() ? x.all() : at::Tensor();
  const nn::StoredRows stored(rows);
  const nn::RowSource& source = routes_tokens() ? static_cast<const nn::RowSource&>(stored) : x;
  const Omega omega = omega_of(rows, context);
  at::Tensor expert_sums;  // [rows, N], of what domega is the sum of, without s
  at::Tensor domega;       // token routing: [rows, N]
  if (dy.is_cpu() && dy.scalar_type() == at::kFloat) {
    nn::kernels::LowRankGradients found =
        nn::kernels::low_rank_backward(call(omega, context), dy, source, tape, dx, need_omega);
    gradients.trained = {std::move(found.A), std::move(found.B)};
    expert_sums = std::move(found.expert_sums);
  } else if (nn::kernels::supports_device_low_rank(dy, A, B)) {
    if (need_omega) {
      domega = routes_tokens() ? at::zeros_like(omega.weights) : gradients.expert_weights.select(0, gate_);
    }
    nn::kernels::FactorGradients found =
        nn::kernels::low_rank_backward(device_call(omega, context), dy, source, tape, dx, domega);
    gradients.trained = {std::move(found.A), std::move(found.B)};
  } else {
    const auto type = dy.scalar_type();
    const at::Tensor weights = diagonal(omega, context.segments.count()).index_select(0, omega.of_row).to(type);
    const at::Tensor dv = at::mm(dy, B.to(type));
    const at::Tensor du = dv * weights;
    gradients.trained.resize(2);
    if (trains()) {
      // The mask of the forward is drawn again instead of stored.
      const at::Tensor dropped = nn::apply_keyed_dropout(source.all(), dropout_, key_, context);
      gradients.trained = {at::mm(du.t(), dropped).to(at::kFloat), at::mm(dy.t(), tape * weights).to(at::kFloat)};
    }
    if (dx.defined()) {
      dx.add_(nn::apply_keyed_dropout(at::mm(du, A.to(type)), dropout_, key_, context));
      if (source.is_elementwise()) {
        source.multiply_by_derivative(dx);
      }
    }
    if (need_omega) {
      expert_sums = (dv.to(at::kFloat) * tape.to(at::kFloat)).view({dy.size(0), experts_, -1}).sum(2);
    }
  }
  if (routes_tokens()) {
    finish_router(rows, omega.weights, domega.defined() ? domega : expert_sums.mul_(scaling_), context, dx, gradients);
    if (dx.defined() && x.is_elementwise()) {
      x.multiply_by_derivative(dx);
    }
  } else if (expert_sums.defined()) {
    add_by_segment(expert_sums, context.segment_of_row, scaling_, gradients.expert_weights.select(0, gate_));
  }
}

// domega [rows, N]: of the loss; the balancing loss is added here, then both go through softmax and router.
void MoeLoraLinearImpl::finish_router(const at::Tensor& x, const at::Tensor& omega, at::Tensor domega,
                                      const nn::RowContext& context, at::Tensor& dx,
                                      nn::DeltaGradients& gradients) const {
  if (balance_ > 0.0 && context.sample_weights.defined()) {
    domega.add_(balance_gradient(omega, context) * balance_);
  }
  const at::Tensor dlogits = omega * (domega - (omega * domega).sum(1, /*keepdim=*/true));
  gradients.trained.push_back(at::mm(dlogits.t(), x.to(at::kFloat)));
  if (dx.defined()) {
    dx.add_(at::mm(dlogits, router).to(dx.scalar_type()));
  }
}

nn::kernels::LowRankCall MoeLoraLinearImpl::call(const Omega& omega, const nn::RowContext& context) const {
  std::vector<std::int64_t> only = expert_of_segment(omega, context);
  const auto segments = context.segments.count();
  const at::Tensor weights =
      only.empty() ? diagonal(omega, segments)
                   : at::full({segments, A.size(0) / experts_}, scaling_, A.options().requires_grad(false));
  return {A, B, weights, omega.of_row, experts_, nn::dropout_mask(dropout_, key_, context), std::move(only), trains()};
}

nn::kernels::DeviceLowRank MoeLoraLinearImpl::device_call(const Omega& omega, const nn::RowContext& context) const {
  return {A,
          B,
          omega.weights,
          routes_tokens() ? at::Tensor() : omega.of_row,
          scaling_,
          nn::kernels::device_mask(dropout_, key_, context),
          trains()};
}

at::Tensor MoeLoraLinearImpl::forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                                      const nn::RowContext& context) {
  if (!(dropout_ > 0.0 && context.dropout.active()) &&
      supports_few_rows_adapted(x, weight, bias, A, B, context.expert_weights)) {
    const Omega omega = omega_of(x, context);
    return few_rows_adapted(x, weight, bias, A, B, omega.weights, omega.of_row, scaling_,
                            expert_of_segment(omega, context));
  }
  if (weight.requires_grad() || (bias.defined() && bias.requires_grad())) {
    return forward_reference(x, weight, bias, context);
  }
  auto self = std::static_pointer_cast<const nn::LinearDelta>(shared_from_this());
  return nn::forward_as_function(std::move(self), x, weight, bias, context);
}

at::Tensor MoeLoraLinearImpl::forward_reference(const at::Tensor& x, const nn::FrozenWeight& weight,
                                                const at::Tensor& bias, const nn::RowContext& context) const {
  at::Tensor dropped = x;
  if (dropout_ > 0.0 && context.dropout.active()) {
    const at::Tensor keep = nn::keyed_dropout_keep_mask(x.size(1), dropout_, key_, context);
    dropped = x * keep.to(x.scalar_type()) / (1.0 - dropout_);
  }
  const Omega omega = omega_of(x, context);
  if (routes_tokens() && balance_ > 0.0 && context.sample_weights.defined() && omega.weights.requires_grad()) {
    // A loss that is not part of the output enters as its gradient.
    const at::Tensor extra = balance_gradient(omega.weights.detach(), context) * balance_;
    omega.weights.register_hook([extra](const at::Tensor& gradient) { return gradient + extra; });
  }
  const at::Tensor u = at::linear(dropped, A.to(x.scalar_type()));
  const at::Tensor v = u * diagonal(omega, context.segments.count()).index_select(0, omega.of_row).to(x.scalar_type());
  return weight.forward(x, bias) + at::linear(v, B.to(x.scalar_type()));
}

std::string MoeLoraLinearImpl::not_mergeable() const {
  return routes_tokens() ? "depends on each token, so no single matrix holds it" : "";
}

nn::LowRankForm MoeLoraLinearImpl::low_rank(const at::Tensor& omega) const {
  at::NoGradGuard guard;
  require_mergeable();
  if (experts_ == 1) {
    return {A.detach(), B.detach(), {}, scaling_};
  }
  MOELORA_CHECK(omega.defined() && omega.dim() == 2 && omega.size(1) == experts_ && omega.size(0) > gate_,
                "low_rank needs expert weights [gates, ", experts_, "]");
  return {A.detach(), B.detach(), omega[gate_].repeat_interleave(A.size(0) / experts_), scaling_};
}

nn::LowRank MoeLoraLinearImpl::expert(std::int64_t expert) const { return slices_of_expert(A, B, expert); }

nn::LowRank MoeLoraLinearImpl::expert_gradient(std::int64_t expert) const {
  MOELORA_CHECK(A.grad().defined() && B.grad().defined(),
                "expected gradients of A and B, found none; call backward() on a loss first");
  return slices_of_expert(A.grad(), B.grad(), expert);
}

nn::LowRank MoeLoraLinearImpl::slices_of_expert(const at::Tensor& a, const at::Tensor& b, std::int64_t expert) const {
  MOELORA_CHECK(expert >= 0 && expert < experts_, "no expert number ", expert, ": there are ", experts_,
                ", numbered from 0 to ", experts_ - 1);
  const auto width = a.size(0) / experts_;
  return {a.narrow(0, expert * width, width), b.narrow(1, expert * width, width)};
}

std::int64_t MoeLoraLinearImpl::routing_parameter_count() const { return routes_tokens() ? router.numel() : 0; }

// A row whose segment has one expert takes one of the N slices of A and B (on a CPU).
double MoeLoraLinearImpl::operations_per_row() const {
  const auto operations = 6.0 * static_cast<double>(A.numel() + B.numel());
  return single_ && A.is_cpu() ? operations / static_cast<double>(experts_) : operations;
}

DeltaKind moe_lora_kind() {
  DeltaKind kind;
  kind.name = "moelora";
  kind.tensors = moe_lora_tensors;
  kind.make = [](const MoeLoraConfig& config, const LinearSize& linear, std::int64_t gate, std::uint64_t key) {
    return std::make_shared<MoeLoraLinearImpl>(linear.in_features, linear.out_features, config, gate, key);
  };
  kind.size = size_of_low_rank_pair;
  return kind;
}

}  // namespace moelora
