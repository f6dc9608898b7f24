#include "moelora/adapter/mtl_lora_linear.h"

#include <ATen/ATen.h>

#include <memory>
#include <ostream>

#include "adapter/core/low_rank_pair.h"
#include "adapter/core/moe_lora_inference.h"
#include "moelora/io/error.h"
#include "moelora/nn/delta_function.h"
#include "moelora/nn/dropout.h"

namespace moelora {
namespace {

std::vector<DeltaTensor> mtl_lora_tensors(const MoeLoraConfig& config, const LinearSize& linear) {
  return {{"A", {config.rank, linear.in_features}},
          {"B", {linear.out_features, config.rank}},
          {"Lambda", {config.num_experts, config.rank, config.rank}}};
}

}  // namespace

MtlLoraLinearImpl::MtlLoraLinearImpl(std::int64_t in_features, std::int64_t out_features, const MoeLoraConfig& config,
                                     std::int64_t gate, std::uint64_t key)
    : scaling_(config.scaling()), dropout_(config.dropout), gate_(gate), key_(key) {
  for (const auto& [name, shape] : mtl_lora_tensors(config, {in_features, out_features})) {
    at::Tensor& member = name == "A" ? A : name == "B" ? B : Lambda;
    member = register_parameter(name, at::zeros(shape));
  }
}

void MtlLoraLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "moelora::MtlLoraLinear(in_features=" << A.size(1) << ", out_features=" << B.size(0) << ", rank=" << rank()
         << ", matrices=" << matrices() << ")";
}

void MtlLoraLinearImpl::reset_parameters(at::Generator generator) {
  at::NoGradGuard guard;
  A.normal_(0.0, 0.01, std::move(generator));
  B.zero_();
  Lambda.copy_(at::eye(rank(), Lambda.options()).expand_as(Lambda));
}

at::Tensor MtlLoraLinearImpl::omega_of(const nn::RowContext& context) const {
  if (!context.expert_weights.defined() && matrices() == 1) {
    return at::ones({context.segments.count(), 1}, Lambda.options().requires_grad(false));
  }
  return weights_of_gate(context, gate_, matrices());
}

at::Tensor MtlLoraLinearImpl::omega_of_rows(const nn::RowContext& context) const {
  return omega_of(context).index_select(0, context.segment_of_row).to(A.scalar_type());
}

at::Tensor MtlLoraLinearImpl::weighted(const at::Tensor& u, const at::Tensor& omega) const {
  return (omega.unsqueeze(2) * u.unsqueeze(1)).view({u.size(0), matrices() * rank()});
}

at::Tensor MtlLoraLinearImpl::stacked() const { return Lambda.transpose(1, 2).reshape({matrices() * rank(), rank()}); }

at::Tensor MtlLoraLinearImpl::begin_forward(const at::Tensor& x, const at::Tensor& bias, const nn::RowContext& context,
                                            at::Tensor& tape) const {
  at::NoGradGuard no_grad;
  const auto type = x.scalar_type();
  tape = at::mm(nn::apply_keyed_dropout(x, dropout_, key_, context), A.to(type).t());
  const at::Tensor v = at::mm(weighted(tape.to(A.scalar_type()), omega_of_rows(context)), stacked()).mul_(scaling_);
  const at::Tensor b = B.to(type).t();
  return bias.defined() ? at::addmm(bias, v.to(type), b) : at::mm(v.to(type), b);
}

void MtlLoraLinearImpl::finish_backward(const at::Tensor& dy, const nn::RowSource& x, const at::Tensor& tape,
                                        const nn::RowContext& context, at::Tensor& dx,
                                        nn::DeltaGradients& gradients) const {
  at::NoGradGuard no_grad;
  const auto type = dy.scalar_type();
  const auto wide = A.scalar_type();
  const at::Tensor omega = omega_of_rows(context);
  const at::Tensor u = tape.to(wide);
  const at::Tensor dv = at::mm(dy, B.to(type)).to(wide).mul_(scaling_);
  const at::Tensor matrices_of_rows = stacked();
  const at::Tensor dweighted = at::mm(dv, matrices_of_rows.t()).view({dy.size(0), matrices(), rank()});
  const at::Tensor du = (dweighted * omega.unsqueeze(2)).sum(1).to(type);
  gradients.trained.resize(3);
  if (trains()) {
    const at::Tensor outer = weighted(u, omega);
    const at::Tensor v = at::mm(outer, matrices_of_rows).mul_(scaling_).to(type);
    // The mask of the forward is drawn again instead of stored.
    const at::Tensor dropped = nn::apply_keyed_dropout(x.all(), dropout_, key_, context);
    const at::Tensor dstacked = at::mm(outer.t(), dv).view({matrices(), rank(), rank()});
    gradients.trained = {at::mm(du.t(), dropped).to(wide), at::mm(dy.t(), v).to(wide),
                         dstacked.transpose(1, 2).contiguous()};
  }
  if (gradients.expert_weights.defined()) {
    gradients.expert_weights.select(0, gate_).index_add_(
        0, context.segment_of_row, (dweighted * u.unsqueeze(1)).sum(2).to(gradients.expert_weights.scalar_type()));
  }
  if (dx.defined()) {
    dx.add_(nn::apply_keyed_dropout(at::mm(du, A.to(type)), dropout_, key_, context));
    if (x.is_elementwise()) {
      x.multiply_by_derivative(dx);
    }
  }
}

at::Tensor MtlLoraLinearImpl::few_rows(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                                       const nn::RowContext& context) const {
  const at::Tensor u = few_rows_down(x, A, context.segment_of_row);
  if (!x.is_cpu()) {
    return few_rows_up(x, weight, bias, at::mm(weighted(u, omega_of_rows(context)), stacked()).mul_(scaling_), B);
  }
  // Row by row, so that a row's bits do not depend on the others; matrices with weight 0 are not read.
  const at::Tensor omega = omega_of(context).contiguous();
  const auto r = rank();
  const auto count = matrices();
  at::Tensor v = at::zeros_like(u);
  const auto* segment = context.segment_of_row.const_data_ptr<std::int64_t>();
  const auto* weights = omega.const_data_ptr<float>();
  const at::Tensor lambda = Lambda.contiguous();
  const auto* all = lambda.const_data_ptr<float>();
  const auto* from = u.const_data_ptr<float>();
  auto* to = v.mutable_data_ptr<float>();
  for (std::int64_t row = 0; row < u.size(0); ++row, from += r, to += r) {
    for (std::int64_t n = 0; n < count; ++n) {
      const float weight_of_matrix = static_cast<float>(weights[segment[row] * count + n] * scaling_);
      const float* matrix = all + n * r * r;
      for (std::int64_t i = 0; weight_of_matrix != 0.0f && i < r; ++i) {
        float sum = 0.0f;
        for (std::int64_t j = 0; j < r; ++j) {
          sum += matrix[i * r + j] * from[j];
        }
        to[i] += weight_of_matrix * sum;
      }
    }
  }
  return few_rows_up(x, weight, bias, v, B);
}

at::Tensor MtlLoraLinearImpl::forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                                      const nn::RowContext& context) {
  const bool drops = dropout_ > 0.0 && context.dropout.active();
  const bool trains_matrices = at::GradMode::is_enabled() && Lambda.requires_grad();
  if (!drops && !trains_matrices && Lambda.scalar_type() == at::kFloat &&
      supports_few_rows_adapted(x, weight, bias, A, B, context.expert_weights)) {
    return few_rows(x, weight, bias, context);
  }
  if (weight.requires_grad() || (bias.defined() && bias.requires_grad())) {
    return forward_reference(x, weight, bias, context);
  }
  auto self = std::static_pointer_cast<const nn::LinearDelta>(shared_from_this());
  return nn::forward_as_function(std::move(self), x, weight, bias, context);
}

at::Tensor MtlLoraLinearImpl::forward_reference(const at::Tensor& x, const nn::FrozenWeight& weight,
                                                const at::Tensor& bias, const nn::RowContext& context) const {
  at::Tensor dropped = x;
  if (dropout_ > 0.0 && context.dropout.active()) {
    const at::Tensor keep = nn::keyed_dropout_keep_mask(x.size(1), dropout_, key_, context);
    dropped = x * keep.to(x.scalar_type()) / (1.0 - dropout_);
  }
  const auto type = x.scalar_type();
  const at::Tensor omega = omega_of(context).to(Lambda.scalar_type());
  const at::Tensor of_segment = at::mm(omega, Lambda.view({matrices(), -1})).view({-1, rank(), rank()});
  const at::Tensor u = at::linear(dropped, A.to(type)).to(Lambda.scalar_type());
  const at::Tensor v = at::bmm(of_segment.index_select(0, context.segment_of_row), u.unsqueeze(2)).squeeze(2);
  return weight.forward(x, bias) + at::linear((v * scaling_).to(type), B.to(type));
}

nn::LowRankForm MtlLoraLinearImpl::low_rank(const at::Tensor& omega) const {
  at::NoGradGuard guard;
  at::Tensor weights = omega;
  if (!weights.defined() && matrices() == 1) {
    weights = at::ones({gate_ + 1, 1}, Lambda.options());
  }
  MOELORA_CHECK(weights.defined() && weights.dim() == 2 && weights.size(1) == matrices() && weights.size(0) > gate_,
                "low_rank needs expert weights [gates, ", matrices(), "]");
  const at::Tensor row = weights.narrow(0, gate_, 1).to(Lambda.device(), Lambda.scalar_type());
  const at::Tensor mixed = at::mm(row, Lambda.detach().view({matrices(), -1})).view({rank(), rank()});
  return {A.detach(), at::mm(B.detach(), mixed), {}, scaling_};
}

DeltaKind mtl_lora_kind() {
  DeltaKind kind;
  kind.name = "mtl-lora";
  kind.tensors = mtl_lora_tensors;
  kind.make = [](const MoeLoraConfig& config, const LinearSize& linear, std::int64_t gate, std::uint64_t key) {
    return std::make_shared<MtlLoraLinearImpl>(linear.in_features, linear.out_features, config, gate, key);
  };
  kind.size = size_of_low_rank_pair;
  kind.splits_rank = false;
  kind.problem = [](const MoeLoraConfig& config) -> std::string {
    return config.routing != Routing::token
               ? ""
               : "routing: the delta \"mtl-lora\" has a matrix for each task, found \"token\"; set it to \"single\" "
                 "with num_experts = the number of tasks";
  };
  return kind;
}

}  // namespace moelora
