#include "moelora/adapter/moe_lora_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>

#include "adapter/low_rank_rows.h"
#include "adapter/moe_lora_inference.h"
#include "moelora/io/error.h"
#include "moelora/nn/dropout.h"
#include "nn/dropout_mask.h"

namespace moelora {
namespace {

// One adapted linear as an autograd function of its own, for models whose blocks have no backward by hand.
class MoeLoraFunction : public torch::autograd::Function<MoeLoraFunction> {
 public:
  struct Call {
    std::shared_ptr<const MoeLoraLinearImpl> delta;
    at::Tensor weight;
    at::Tensor bias;
    nn::RowContext context;
  };

  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& A,
                            const at::Tensor& B, const std::optional<at::Tensor>& expert_weights,
                            std::shared_ptr<Call> call) {
    at::Tensor tape;
    at::Tensor y = call->delta->begin_forward(x, call->bias, call->context, tape);
    nn::FrozenWeight(call->weight).add_forward(y, x);
    context->save_for_backward({x, tape, A, B, expert_weights.value_or(at::Tensor())});
    context->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<CallHolder>(std::move(call)));
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();  // A, B and the expert weights are saved to be checked
    const auto holder = context->saved_data["call"].toCapsule();
    const Call& call = *static_cast<const CallHolder&>(*holder).call;
    const at::Tensor dy = gradients[0].contiguous();
    nn::DeltaGradients found;
    if (saved[4].defined() && context->needs_input_grad(3)) {
      found.expert_weights = at::zeros_like(saved[4]);
    }
    at::Tensor dx = context->needs_input_grad(0) ? nn::FrozenWeight(call.weight).backward(dy) : at::Tensor();
    call.delta->finish_backward(dy, nn::StoredRows(saved[0]), saved[1], call.context, dx, found);
    return {dx, found.trained[0], found.trained[1], found.expert_weights, {}};
  }

 private:
  struct CallHolder : torch::CustomClassHolder {
    explicit CallHolder(std::shared_ptr<Call> held) : call(std::move(held)) {}
    std::shared_ptr<Call> call;
  };
};

}  // namespace

MoeLoraLinearImpl::MoeLoraLinearImpl(std::int64_t in_features, std::int64_t out_features, const MoeLoraConfig& config,
                                     std::int64_t gate, std::uint64_t key)
    : experts_(config.num_experts), scaling_(config.scaling()), dropout_(config.dropout), gate_(gate), key_(key) {
  A = register_parameter("A", at::zeros({config.rank, in_features}));
  B = register_parameter("B", at::zeros({out_features, config.rank}));
}

void MoeLoraLinearImpl::reset_parameters(at::Generator generator) {
  at::NoGradGuard guard;
  A.normal_(0.0, 0.01, std::move(generator));
  B.zero_();
}

at::Tensor MoeLoraLinearImpl::omega_of(const nn::RowContext& context) const {
  if (experts_ == 1) {
    return {};
  }
  const at::Tensor& all = context.expert_weights;
  MOELORA_CHECK(all.defined(), "the RowContext has no expert weights, but the active adapter has ", experts_,
                " experts; make it with Adapter::context()");
  MOELORA_CHECK(all.size(0) > gate_ && all.size(2) == experts_ && all.size(1) == context.segments.count(),
                "the RowContext's expert weights have shape ", all.sizes(), ", expected [> ", gate_, ", ",
                context.segments.count(), ", ", experts_, "]; it was made for another adapter or batch");
  return all.select(0, gate_);
}

at::Tensor MoeLoraLinearImpl::diagonal(const nn::RowContext& context) const {
  const at::Tensor omega = omega_of(context);
  const auto rank = A.size(0);
  if (!omega.defined()) {
    return at::full({context.segments.count(), rank}, scaling_, A.options().requires_grad(false));
  }
  return (omega * scaling_).repeat_interleave(rank / experts_, 1);
}

at::Tensor MoeLoraLinearImpl::begin_forward(const at::Tensor& x, const at::Tensor& bias, const nn::RowContext& context,
                                            at::Tensor& tape) const {
  at::NoGradGuard no_grad;
  if (x.is_cpu() && x.scalar_type() == at::kFloat) {
    return low_rank_forward(call(context), x.contiguous(), bias, tape);
  }
  const at::Tensor dropped = nn::apply_keyed_dropout(x, dropout_, key_, context);
  tape = at::mm(dropped, A.to(x.scalar_type()).t());
  const at::Tensor weights = diagonal(context).index_select(0, context.segment_of_row).to(x.scalar_type());
  const at::Tensor v = tape * weights;
  const at::Tensor b = B.to(x.scalar_type()).t();
  return bias.defined() ? at::addmm(bias, v, b) : at::mm(v, b);
}

void MoeLoraLinearImpl::finish_backward(const at::Tensor& dy, const nn::RowSource& x, const at::Tensor& tape,
                                        const nn::RowContext& context, at::Tensor& dx,
                                        nn::DeltaGradients& gradients) const {
  at::NoGradGuard no_grad;
  const bool need_omega = experts_ > 1 && gradients.expert_weights.defined();
  at::Tensor expert_sums;
  if (dy.is_cpu() && dy.scalar_type() == at::kFloat) {
    LowRankGradients found = low_rank_backward(call(context), dy, x, tape, dx, need_omega);
    gradients.trained = {std::move(found.A), std::move(found.B)};
    expert_sums = std::move(found.expert_sums);
  } else {
    const auto type = dy.scalar_type();
    const at::Tensor weights = diagonal(context).index_select(0, context.segment_of_row).to(type);
    const at::Tensor dv = at::mm(dy, B.to(type));
    const at::Tensor du = dv * weights;
    // The mask of the forward is drawn again instead of stored.
    const at::Tensor dropped = nn::apply_keyed_dropout(x.all(), dropout_, key_, context);
    gradients.trained = {at::mm(du.t(), dropped).to(at::kFloat), at::mm(dy.t(), tape * weights).to(at::kFloat)};
    if (dx.defined()) {
      dx.add_(nn::apply_keyed_dropout(at::mm(du, A.to(type)), dropout_, key_, context));
      if (x.chains()) {
        x.chain(dx);
      }
    }
    if (need_omega) {
      expert_sums = (dv.to(at::kFloat) * tape.to(at::kFloat)).view({dy.size(0), experts_, -1}).sum(2);
    }
  }
  if (need_omega) {
    gradients.expert_weights.select(0, gate_).index_add_(0, context.segment_of_row, expert_sums, scaling_);
  }
}

LowRankCall MoeLoraLinearImpl::call(const nn::RowContext& context) const {
  return {A, B, diagonal(context), context.segment_of_row, experts_, nn::dropout_mask(dropout_, key_, context)};
}

at::Tensor MoeLoraLinearImpl::forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                                      const nn::RowContext& context) {
  if (!(dropout_ > 0.0 && context.dropout.active()) && few_rows_adapted_serves(x, weight, bias, A, B)) {
    return few_rows_adapted(x, weight, bias, A, B, omega_of(context), context, scaling_);
  }
  if (weight.value().requires_grad() || (bias.defined() && bias.requires_grad())) {
    return forward_reference(x, weight.value(), bias, context);
  }
  const at::Tensor& all = context.expert_weights;
  auto self = std::static_pointer_cast<const MoeLoraLinearImpl>(shared_from_this());
  auto call =
      std::make_shared<MoeLoraFunction::Call>(MoeLoraFunction::Call{std::move(self), weight.value(), bias, context});
  // Autograd takes no undefined tensors, but absent ones.
  return MoeLoraFunction::apply(x.contiguous(), A, B, all.defined() ? std::optional(all) : std::nullopt,
                                std::move(call));
}

at::Tensor MoeLoraLinearImpl::forward_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                                                const nn::RowContext& context) const {
  at::Tensor dropped = x;
  if (dropout_ > 0.0 && context.dropout.active()) {
    const at::Tensor keep = nn::keyed_dropout_keep_mask(x.size(1), dropout_, key_, context);
    dropped = x * keep.to(x.scalar_type()) / (1.0 - dropout_);
  }
  const at::Tensor u = at::linear(dropped, A.to(x.scalar_type()));
  const at::Tensor v = u * diagonal(context).index_select(0, context.segment_of_row).to(x.scalar_type());
  return nn::FrozenWeight(weight).forward(x, bias) + at::linear(v, B.to(x.scalar_type()));
}

nn::LowRank MoeLoraLinearImpl::low_rank(const at::Tensor& omega) const {
  at::NoGradGuard guard;
  if (experts_ == 1) {
    return {A.detach(), B.detach() * scaling_};
  }
  MOELORA_CHECK(omega.defined() && omega.dim() == 2 && omega.size(1) == experts_ && omega.size(0) > gate_,
                "low_rank needs expert weights [gates, ", experts_, "]");
  const at::Tensor diagonal = (omega[gate_] * scaling_).repeat_interleave(A.size(0) / experts_);
  return {A.detach(), B.detach() * diagonal.to(B.device()).unsqueeze(0)};
}

}  // namespace moelora
