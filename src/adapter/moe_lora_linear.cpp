#include "moelora/adapter/moe_lora_linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>

#include "moelora/io/error.h"
#include "moelora/nn/dropout.h"

namespace moelora {
namespace {

// Everything about one call that is not a tensor with a gradient.
struct MoeLoraCall {
  at::Tensor bias;  // [d_out] or undefined
  nn::RowContext context;
  std::int64_t experts;
  double scaling;
  double dropout;
  std::uint64_t key;
};

// s · g per row: [rows, r] from ω [S, N]; undefined ω (one expert): undefined.
at::Tensor diagonal_of_rows(const at::Tensor& omega, const MoeLoraCall& call, std::int64_t rank) {
  if (!omega.defined()) {
    return {};
  }
  return (omega * call.scaling).repeat_interleave(rank / call.experts, 1).index_select(0, call.context.segment_of_row);
}

// v = s · g ⊙ u in u's dtype.
at::Tensor weigh(const at::Tensor& u, const at::Tensor& diagonal, double scaling) {
  return diagonal.defined() ? u * diagonal.to(u.scalar_type()) : u * scaling;
}

class MoeLoraFunction : public torch::autograd::Function<MoeLoraFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& A, const at::Tensor& B, const std::optional<at::Tensor>& weights,
                            std::shared_ptr<MoeLoraCall> call) {
    const at::Tensor omega = weights.value_or(at::Tensor());
    const at::Tensor a = A.to(x.scalar_type());
    const at::Tensor b = B.to(x.scalar_type());
    const at::Tensor u = at::mm(nn::apply_keyed_dropout(x, call->dropout, call->key, call->context), a.t());
    at::Tensor y = nn::FrozenWeight(weight).forward(x, call->bias);
    y.addmm_(weigh(u, diagonal_of_rows(omega, *call, A.size(0)), call->scaling), b.t());
    context->save_for_backward({x, u, weight, A, B, omega});
    context->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<CallHolder>(std::move(call)));
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& u = saved[1];
    const at::Tensor& weight = saved[2];
    const at::Tensor& A = saved[3];
    const at::Tensor& B = saved[4];
    const at::Tensor& omega = saved[5];
    const auto holder = context->saved_data["call"].toCapsule();
    const MoeLoraCall& call = *static_cast<const CallHolder&>(*holder).call;
    const at::Tensor dy = gradients[0].contiguous();

    const at::Tensor a = A.to(x.scalar_type());
    const at::Tensor b = B.to(x.scalar_type());
    const at::Tensor diagonal = diagonal_of_rows(omega, call, A.size(0));
    const at::Tensor dv = at::mm(dy, b);                      // [rows, r]
    const at::Tensor du = weigh(dv, diagonal, call.scaling);  // [rows, r]
    at::Tensor dA, dB, domega, dx;
    if (context->needs_input_grad(2)) {
      // The mask of the forward is drawn again instead of stored.
      dA = at::mm(du.t(), nn::apply_keyed_dropout(x, call.dropout, call.key, call.context)).to(A.scalar_type());
    }
    if (context->needs_input_grad(3)) {
      dB = at::mm(dy.t(), weigh(u, diagonal, call.scaling)).to(B.scalar_type());
    }
    if (omega.defined() && context->needs_input_grad(4)) {
      const at::Tensor of_rows = (dv.to(at::kFloat) * u.to(at::kFloat))
                                     .view({u.size(0), call.experts, -1})
                                     .sum(2)
                                     .mul_(call.scaling);  // [rows, N]
      domega = at::zeros_like(omega).index_add_(0, call.context.segment_of_row, of_rows);
    }
    if (context->needs_input_grad(0)) {
      dx = nn::FrozenWeight(weight).backward(dy);
      if (call.dropout > 0.0 && call.context.dropout.active()) {
        dx.add_(nn::apply_keyed_dropout(at::mm(du, a), call.dropout, call.key, call.context));
      } else {
        dx.addmm_(du, a);
      }
    }
    return {dx, {}, dA, dB, domega, {}};
  }

 private:
  struct CallHolder : torch::CustomClassHolder {
    explicit CallHolder(std::shared_ptr<MoeLoraCall> held) : call(std::move(held)) {}
    std::shared_ptr<MoeLoraCall> call;
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

at::Tensor MoeLoraLinearImpl::forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                                      const nn::RowContext& context) {
  if (weight.value().requires_grad() || (bias.defined() && bias.requires_grad())) {
    return forward_reference(x, weight.value(), bias, context);
  }
  const at::Tensor omega = omega_of(context);
  auto call = std::make_shared<MoeLoraCall>(MoeLoraCall{bias, context, experts_, scaling_, dropout_, key_});
  // Autograd takes no undefined tensors, but absent ones.
  return MoeLoraFunction::apply(x, weight.value(), A, B, omega.defined() ? std::optional(omega) : std::nullopt,
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
  const MoeLoraCall call{bias, context, experts_, scaling_, dropout_, key_};
  const at::Tensor v = weigh(u, diagonal_of_rows(omega_of(context), call, A.size(0)), scaling_);
  const at::Tensor base = bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
  return base + at::linear(v, B.to(x.scalar_type()));
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
