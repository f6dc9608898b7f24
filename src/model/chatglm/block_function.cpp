#include "model/chatglm/block_function.h"

#include <ATen/ATen.h>

#include <array>
#include <utility>
#include <vector>

#include "model/block_autograd.h"
#include "moelora/nn/attention.h"
#include "moelora/nn/gelu.h"
#include "moelora/nn/linear_manual_backward.h"

namespace moelora::model {
namespace {

constexpr double kAlpha = ChatGlmConfig::kResidualAlpha;
constexpr std::size_t kLinears = 4;

using Call = BlockCall<ChatGlmBlockImpl>;

// What the forward stores for the backward.
struct Tape {
  at::Tensor mean1, rstd1;                  // statistics of input_layernorm
  at::Tensor qkv;                           // [rows, heads, 3 d], q and k rotated
  nn::AttentionResult attended;             // output [n, heads, d]
  at::Tensor x1, mean2, rstd2;              // input and statistics of post_attention_layernorm
  at::Tensor inner;                         // [n, inner], before GELU
  std::array<at::Tensor, kLinears> deltas;  // of query_key_value, dense, dense_h_to_4h, dense_4h_to_h

  std::vector<at::Tensor*> members() {
    std::vector<at::Tensor*> all{&mean1,
                                 &rstd1,
                                 &qkv,
                                 &attended.output,
                                 &attended.log_sum,
                                 &attended.all_output,
                                 &attended.causal_output,
                                 &attended.causal_log_sum,
                                 &x1,
                                 &mean2,
                                 &rstd2,
                                 &inner};
    for (at::Tensor& delta : deltas) {
      all.push_back(&delta);
    }
    return all;
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

BlockGradients run_backward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape tape,
                            const at::Tensor& dy, bool need_dx, const at::Tensor& expert_weights) {
  BlockGradients result;
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

struct ChatGlmByHand {
  using Block = ChatGlmBlockImpl;
  using Tape = model::Tape;
  static auto linears(Block& block) { return linears_of(block); }
  static at::Tensor forward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape& tape) {
    return run_forward(call, x, prefix, tape);
  }
  static BlockGradients backward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape tape,
                                 const at::Tensor& dy, bool need_dx, const at::Tensor& dweights) {
    return run_backward(call, x, prefix, std::move(tape), dy, need_dx, dweights);
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

at::Tensor fused_block(std::shared_ptr<ChatGlmBlockImpl> block, const at::Tensor& x, const LayerInput& input) {
  return apply_block<ChatGlmByHand>(std::move(block), x, input);
}

}  // namespace moelora::model
