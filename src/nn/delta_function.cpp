#include "moelora/nn/delta_function.h"

#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace moelora::nn {
namespace {

class DeltaFunction : public torch::autograd::Function<DeltaFunction> {
 public:
  struct Call {
    std::shared_ptr<const LinearDelta> delta;
    FrozenWeight weight;
    at::Tensor bias;
    RowContext context;
  };

  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const std::optional<at::Tensor>& expert_weights, at::TensorList trained,
                            std::shared_ptr<Call> call) {
    at::Tensor tape;
    at::Tensor y = call->delta->begin_forward(x, call->bias, call->context, tape);
    call->weight.add_forward(y, x);
    std::vector<at::Tensor> saved{x, tape, expert_weights.value_or(at::Tensor())};
    saved.insert(saved.end(), trained.begin(), trained.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<CallHolder>(std::move(call)));
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();  // the parameters are saved to be checked
    const auto holder = context->saved_data["call"].toCapsule();
    const Call& call = *static_cast<const CallHolder&>(*holder).call;
    const at::Tensor dy = gradients[0].contiguous();
    DeltaGradients found;
    if (saved[2].defined() && context->needs_input_grad(1)) {
      found.expert_weights = at::zeros_like(saved[2]);
    }
    at::Tensor dx = context->needs_input_grad(0) ? call.weight.backward(dy) : at::Tensor();
    call.delta->finish_backward(dy, StoredRows(saved[0]), saved[1], call.context, dx, found);
    torch::autograd::variable_list result{dx, found.expert_weights};
    result.insert(result.end(), found.trained.begin(), found.trained.end());
    result.emplace_back();  // call
    return result;
  }

 private:
  struct CallHolder : torch::CustomClassHolder {
    explicit CallHolder(std::shared_ptr<Call> held) : call(std::move(held)) {}
    std::shared_ptr<Call> call;
  };
};

}  // namespace

at::Tensor forward_as_function(std::shared_ptr<const LinearDelta> delta, const at::Tensor& x,
                               const FrozenWeight& weight, const at::Tensor& bias, const RowContext& context) {
  const at::Tensor& all = context.expert_weights;
  const std::vector<at::Tensor> parameters = delta->trained();
  auto call = std::make_shared<DeltaFunction::Call>(DeltaFunction::Call{std::move(delta), weight, bias, context});
  // Autograd takes no undefined tensors, but absent ones.
  return DeltaFunction::apply(x.contiguous(), all.defined() ? std::optional(all) : std::nullopt,
                              at::TensorList(parameters), std::move(call));
}

}  // namespace moelora::nn
