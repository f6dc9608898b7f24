#pragma once
// A block whose forward and backward are written out, as one autograd function: all of it that no family decides.
//
// A family gives a struct `Hand` (as in "by hand") with
//   Block, Tape              Tape: what forward stores; members() lists its tensors as pointers, always as many
//   linears(Block&)          its linears in the order of BlockGradients::trained; null: absent
//   forward(call, x, prefix, tape)
//   backward(call, x, prefix, tape, dy, need_dx, dweights) → BlockGradients

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "moelora/model/layer_input.h"
#include "moelora/nn/linear.h"

namespace moelora::model {

/// What a call needs besides tensors that gradients flow to.
template <class Block>
struct BlockCall : torch::CustomClassHolder {
  std::shared_ptr<Block> block;
  nn::Rotary rotary;
  nn::RowContext context;
  at::Tensor output_rows;         ///< undefined: all
  nn::RowContext output_context;  ///< of output_rows
  bool recompute = false;

  bool some() const { return output_rows.defined(); }
  const nn::RowContext& rows_after_attention() const { return some() ? output_context : context; }
};

struct BlockGradients {
  at::Tensor x;
  nn::KeyValuePrefix prefix;
  std::vector<at::Tensor> trained;  ///< of the linears in order
};

template <class Hand>
class BlockFunction : public torch::autograd::Function<BlockFunction<Hand>> {
 public:
  using Call = BlockCall<typename Hand::Block>;

  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const std::optional<at::Tensor>& expert_weights, const std::optional<at::Tensor>& key,
                            const std::optional<at::Tensor>& value, at::TensorList trained,
                            c10::intrusive_ptr<Call> call) {
    const nn::KeyValuePrefix prefix{key.value_or(at::Tensor()), value.value_or(at::Tensor())};
    typename Hand::Tape tape;
    at::Tensor y = Hand::forward(*call, x, prefix, tape);
    // The parameters are saved to be checked: a step between forward and backward is an error, not a wrong gradient.
    std::vector<at::Tensor> saved{x, expert_weights.value_or(at::Tensor()), prefix.key, prefix.value};
    if (!call->recompute) {
      for (const at::Tensor* member : tape.members()) {
        saved.push_back(*member);
      }
    }
    saved.insert(saved.end(), trained.begin(), trained.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["call"] = c10::IValue::make_capsule(std::move(call));
    return y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    const auto capsule = context->saved_data["call"].toCapsule();
    const Call& call = static_cast<const Call&>(*capsule);
    const at::Tensor x = saved[0];
    const nn::KeyValuePrefix prefix{saved[2], saved[3]};
    typename Hand::Tape tape;
    if (call.recompute) {
      at::NoGradGuard no_grad;
      Hand::forward(call, x, prefix, tape);
    } else {
      const auto members = tape.members();
      for (std::size_t i = 0; i < members.size(); ++i) {
        *members[i] = saved[4 + i];
      }
    }
    at::Tensor dweights;
    if (saved[1].defined() && context->needs_input_grad(1)) {
      dweights = at::zeros_like(saved[1]);
    }
    saved.clear();
    BlockGradients found = Hand::backward(call, x, prefix, std::move(tape), gradients[0].contiguous(),
                                          context->needs_input_grad(0), dweights);
    torch::autograd::variable_list result{found.x, dweights, found.prefix.key, found.prefix.value};
    result.insert(result.end(), found.trained.begin(), found.trained.end());
    result.emplace_back();  // call
    return result;
  }
};

/// The block's output for x; see fused_block of a family.
template <class Hand>
at::Tensor apply_block(std::shared_ptr<typename Hand::Block> block, const at::Tensor& x, const LayerInput& input) {
  auto call = c10::make_intrusive<BlockCall<typename Hand::Block>>();
  call->block = std::move(block);
  call->rotary = input.rotary;
  call->context = input.context;
  call->context.prefix.clear();  // an input of the function, as far as it is this layer's
  call->output_rows = input.output_rows;
  call->output_context = input.output_context;
  call->recompute = input.recompute;
  std::vector<at::Tensor> trained;
  for (const nn::LinearImpl* linear : Hand::linears(*call->block)) {
    if (linear != nullptr && linear->active_delta() != nullptr) {
      const auto of_linear = linear->active_delta()->trained();
      trained.insert(trained.end(), of_linear.begin(), of_linear.end());
    }
  }
  const nn::KeyValuePrefix prefix = input.prefix();
  if (!at::GradMode::is_enabled()) {
    typename Hand::Tape tape;
    return Hand::forward(*call, x.contiguous(), prefix, tape);
  }
  const auto given = [](const at::Tensor& tensor) { return tensor.defined() ? std::optional(tensor) : std::nullopt; };
  return BlockFunction<Hand>::apply(x.contiguous(), given(input.context.expert_weights), given(prefix.key),
                                    given(prefix.value), at::TensorList(trained), std::move(call));
}

}  // namespace moelora::model
