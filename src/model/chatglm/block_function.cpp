#include "model/chatglm/block_function.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <optional>

#include "moelora/nn/attention.h"
#include "moelora/nn/gelu.h"
#include "moelora/nn/linear_manual_backward.h"

namespace moelora::model {
namespace {

constexpr double kAlpha = ChatGlmConfig::kResidualAlpha;
constexpr std::size_t kLinears = 4;

// What a call needs besides tensors that gradients flow to.
struct Call : torch::CustomClassHolder {
  std::shared_ptr<ChatGlmBlockImpl> block;
  nn::Rotary rotary;
  nn::RowContext context;
  at::Tensor output_rows;         // undefined: all
  nn::RowContext output_context;  // of output_rows
  bool recompute = false;

  bool some() const { return output_rows.defined(); }
  const nn::RowContext& rows_after_attention() const { return some() ? output_context : context; }
};

// What the forward stores for the backward.
struct Tape {
  at::Tensor mean1, rstd1;                  // statistics of input_layernorm
  at::Tensor qkv;                           // [rows, heads, 3 d], q and k rotated
  nn::AttentionResult attended;             // output [n, heads, d]
  at::Tensor x1, mean2, rstd2;              // input and statistics of post_attention_layernorm
  at::Tensor inner;                         // [n, inner], before GELU
  std::array<at::Tensor, kLinears> deltas;  // of query_key_value, dense, dense_h_to_4h, dense_4h_to_h

  static constexpr std::size_t kSize = 12 + kLinears;
  std::vector<at::Tensor> list() const {
    std::vector<at::Tensor> all{mean1,
                                rstd1,
                                qkv,
                                attended.output,
                                attended.log_sum,
                                attended.all_output,
                                attended.causal_output,
                                attended.causal_log_sum,
                                x1,
                                mean2,
                                rstd2,
                                inner};
    all.insert(all.end(), deltas.begin(), deltas.end());
    return all;
  }
  static Tape from_list(const at::Tensor* first) {
    Tape tape{first[0],  first[1],  first[2], {first[3], first[4], first[5], first[6], first[7]}, first[8], first[9],
              first[10], first[11], {}};
    std::copy(first + 12, first + kSize, tape.deltas.begin());
    return tape;
  }
};

std::array<nn::LinearImpl*, kLinears> linears_of(ChatGlmBlockImpl& block) {
  return {block.attention->query_key_value.get(), block.attention->dense.get(), block.mlp->dense_h_to_4h.get(),
          block.mlp->dense_4h_to_h.get()};
}

// Views of a [rows, heads, 3 d] tensor.
struct Heads {
  at::Tensor q, k, v;
  explicit Heads(const at::Tensor& qkv) {
    const auto d = qkv.size(2) / 3;
    q = qkv.narrow(2, 0, d);
    k = qkv.narrow(2, d, d);
    v = qkv.narrow(2, 2 * d, d);
  }
  void rotate(const nn::Rotary& rotary, bool inverse) const { nn::rotate_in_place(q, k, rotary, inverse); }
};

at::Tensor run_forward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape& tape) {
  ChatGlmBlockImpl& block = *call.block;
  const auto linears = linears_of(block);
  const auto rows = x.size(0);
  nn::NormResult first = nn::norm_forward(*block.input_layernorm, x);
  tape.mean1 = first.mean;
  tape.rstd1 = first.rstd;
  const auto heads = block.attention->heads();
  tape.qkv = nn::manual_forward(*linears[0], first.y, call.context, tape.deltas[0]).view({rows, heads, -1});
  const Heads views(tape.qkv);
  views.rotate(call.rotary, /*inverse=*/false);
  tape.attended = nn::attention_forward(views.q, views.k, views.v, call.context, call.output_rows, prefix);
  const at::Tensor kept = call.some() ? first.y.index_select(0, call.output_rows) : first.y;
  const auto& after = call.rows_after_attention();
  tape.x1 = nn::manual_forward(*linears[1], tape.attended.output.view({kept.size(0), -1}), after, tape.deltas[1]);
  nn::NormResult second = nn::add_then_norm(*block.post_attention_layernorm, tape.x1, kept, kAlpha);
  tape.mean2 = second.mean;
  tape.rstd2 = second.rstd;
  tape.inner = nn::manual_forward(*linears[2], second.y, after, tape.deltas[2]);
  at::Tensor y = nn::manual_forward(*linears[3], nn::gelu(tape.inner), after, tape.deltas[3]);
  return y.add_(second.y, kAlpha);
}

struct Gradients {
  at::Tensor x;
  nn::KeyValuePrefix prefix;
  std::vector<at::Tensor> trained;  // of the four linears in order
};

Gradients run_backward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape tape,
                       const at::Tensor& dy, bool need_dx, at::Tensor& expert_weights) {
  Gradients result;
  ChatGlmBlockImpl& block = *call.block;
  const auto linears = linears_of(block);
  const auto& after = call.rows_after_attention();
  std::array<nn::DeltaGradients, kLinears> found;
  const auto backward = [&](std::size_t i, const at::Tensor& gradient, const nn::RowSource& input,
                            const nn::RowContext& context, bool need) {
    found[i].expert_weights = expert_weights;
    return nn::manual_backward(*linears[i], gradient, input, tape.deltas[i], context, need, found[i]);
  };
  at::Tensor dinner = backward(3, dy, nn::GeluRows(tape.inner), after, true);
  tape.inner = at::Tensor();  // the largest one: gone before the next is made
  nn::LayerNormImpl& norm2 = *block.post_attention_layernorm;
  at::Tensor dmiddle =
      backward(2, dinner, nn::NormalisedRows(tape.x1, tape.mean2, tape.rstd2, norm2.weight, norm2.bias), after, true);
  dinner = at::Tensor();
  const at::Tensor dx1 = nn::norm_backward(norm2, dmiddle, dy, kAlpha, tape.x1, tape.mean2, tape.rstd2);
  dmiddle = at::Tensor();
  const at::Tensor attended = tape.attended.output.view({dx1.size(0), -1});
  const at::Tensor dattended = backward(1, dx1, nn::StoredRows(attended), after, true);
  at::Tensor dqkv = at::empty_like(tape.qkv);
  const Heads views(tape.qkv);
  const Heads gradients(dqkv);
  const at::Tensor dheads = dattended.view(tape.attended.output.sizes());
  if (prefix.defined()) {
    result.prefix = nn::attention_backward(dheads, views.q, views.k, views.v, tape.attended, call.context,
                                           call.output_rows, prefix, gradients.q, gradients.k, gradients.v);
  } else {
    nn::attention_backward(dheads, views.q, views.k, views.v, tape.attended, call.context, call.output_rows,
                           gradients.q, gradients.k, gradients.v);
  }
  gradients.rotate(call.rotary, /*inverse=*/true);
  nn::LayerNormImpl& norm1 = *block.input_layernorm;
  at::Tensor da =
      backward(0, dqkv.view({x.size(0), -1}), nn::NormalisedRows(x, tape.mean1, tape.rstd1, norm1.weight, norm1.bias),
               call.context, need_dx);
  if (need_dx) {
    if (call.some()) {
      da.index_add_(0, call.output_rows, dx1, kAlpha);
    }
    result.x = nn::norm_backward(norm1, da, call.some() ? at::Tensor() : dx1, kAlpha, x, tape.mean1, tape.rstd1);
  }
  for (nn::DeltaGradients& of_linear : found) {
    result.trained.insert(result.trained.end(), of_linear.trained.begin(), of_linear.trained.end());
  }
  return result;
}

class BlockFunction : public torch::autograd::Function<BlockFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const std::optional<at::Tensor>& expert_weights, const std::optional<at::Tensor>& key,
                            const std::optional<at::Tensor>& value, at::TensorList trained,
                            c10::intrusive_ptr<Call> call) {
    const nn::KeyValuePrefix prefix{key.value_or(at::Tensor()), value.value_or(at::Tensor())};
    Tape tape;
    at::Tensor y = run_forward(*call, x, prefix, tape);
    // The parameters are saved to be checked: a step between forward and backward is an error, not a wrong gradient.
    std::vector<at::Tensor> saved{x, expert_weights.value_or(at::Tensor()), prefix.key, prefix.value};
    if (!call->recompute) {
      const auto list = tape.list();
      saved.insert(saved.end(), list.begin(), list.end());
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
    Tape tape;
    if (call.recompute) {
      at::NoGradGuard no_grad;
      run_forward(call, x, prefix, tape);
    } else {
      tape = Tape::from_list(saved.data() + 4);
    }
    at::Tensor dweights;
    if (saved[1].defined() && context->needs_input_grad(1)) {
      dweights = at::zeros_like(saved[1]);
    }
    saved.clear();
    Gradients found = run_backward(call, x, prefix, std::move(tape), gradients[0].contiguous(),
                                   context->needs_input_grad(0), dweights);
    torch::autograd::variable_list result{found.x, dweights, found.prefix.key, found.prefix.value};
    result.insert(result.end(), found.trained.begin(), found.trained.end());
    result.emplace_back();  // call
    return result;
  }
};

}  // namespace

bool supports_fused_block(ChatGlmBlockImpl& block, const LayerInput& input) {
  if (input.cache != nullptr) {
    return false;
  }
  for (const nn::LinearImpl* linear : linears_of(block)) {
    if (!nn::supports_manual_backward(*linear)) {
      return false;
    }
  }
  for (const auto* norm : {block.input_layernorm.get(), block.post_attention_layernorm.get()}) {
    if (norm->weight.requires_grad() || norm->bias.requires_grad()) {
      return false;
    }
  }
  return true;
}

at::Tensor fused_block(std::shared_ptr<ChatGlmBlockImpl> block, const at::Tensor& x, const LayerInput& input,
                       bool recompute) {
  auto call = c10::make_intrusive<Call>();
  call->block = std::move(block);
  call->rotary = input.rotary;
  call->context = input.context;
  call->context.prefix.clear();  // an input of the function, as far as it is this layer's
  call->output_rows = input.output_rows;
  call->output_context = input.output_context;
  call->recompute = recompute;
  std::vector<at::Tensor> trained;
  for (const nn::LinearImpl* linear : linears_of(*call->block)) {
    if (linear->active_delta() != nullptr) {
      const auto of_linear = linear->active_delta()->trained();
      trained.insert(trained.end(), of_linear.begin(), of_linear.end());
    }
  }
  const nn::KeyValuePrefix prefix = input.prefix();
  if (!at::GradMode::is_enabled()) {
    Tape tape;
    return run_forward(*call, x, prefix, tape);
  }
  const auto given = [](const at::Tensor& tensor) { return tensor.defined() ? std::optional(tensor) : std::nullopt; };
  return BlockFunction::apply(x.contiguous(), given(input.context.expert_weights), given(prefix.key),
                              given(prefix.value), at::TensorList(trained), std::move(call));
}

}  // namespace moelora::model
