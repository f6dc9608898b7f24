#include "model/llama/block_function.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "model/block_autograd.h"
#include "model/llama/block_parts.h"
#include "moelora/nn/attention.h"
#include "moelora/nn/linear_manual_backward.h"
#include "moelora/nn/recomputed_rows.h"
#include "moelora/nn/swiglu.h"

namespace moelora::model {
namespace llama {  // apart from the names of other families' blocks
namespace {

using Call = BlockCall<LlamaBlockImpl>;

// What the forward stores for the backward.
struct Tape {
  at::Tensor rstd1;              // statistic of input_layernorm
  at::Tensor q, k, v;            // [rows, heads or kv_heads, d]: turned; before their norms where they have some
  at::Tensor rstd_q, rstd_k;     // statistics of q_norm and k_norm
  nn::AttentionResult attended;  // output [n, heads, d]
  at::Tensor o, rstd_o;          // input and statistic of post_self_attn_layernorm
  at::Tensor x1, rstd2;          // of post_attention_layernorm
  at::Tensor gate, up;           // [n, inner]; gate_up_proj's output in gate, up undefined
  at::Tensor down, rstd_down;    // of post_mlp_layernorm
  std::array<at::Tensor, kLinears> deltas;  // of the linears

  std::vector<at::Tensor*> members() {
    std::vector<at::Tensor*> all{&rstd1,
                                 &q,
                                 &k,
                                 &v,
                                 &rstd_q,
                                 &rstd_k,
                                 &attended.output,
                                 &attended.log_sum,
                                 &attended.all_output,
                                 &attended.causal_output,
                                 &attended.causal_log_sum,
                                 &o,
                                 &rstd_o,
                                 &x1,
                                 &rstd2,
                                 &gate,
                                 &up,
                                 &down,
                                 &rstd_down};
    for (at::Tensor& delta : deltas) {
      all.push_back(&delta);
    }
    return all;
  }
  nn::GateAndUp gate_up() const { return up.defined() ? nn::GateAndUp{gate, up} : nn::gate_and_up(gate); }
};

at::Tensor rows_of_heads(const at::Tensor& x) { return x.view({-1, x.size(2)}); }

// Norms of what attention or the MLP gives, where there is one: input and statistic are stored.
at::Tensor norm_after(const nn::RmsNorm& norm, at::Tensor x, at::Tensor& stored, at::Tensor& rstd) {
  if (norm.is_empty()) {
    return x;
  }
  nn::RmsNormResult result = nn::rms_norm_forward(*norm, x);
  stored = std::move(x);
  rstd = std::move(result.rstd);
  return std::move(result.y);
}
at::Tensor norm_after_backward(const nn::RmsNorm& norm, const at::Tensor& dy, const at::Tensor& stored,
                               const at::Tensor& rstd) {
  if (norm.is_empty()) {
    return dy;
  }
  at::Tensor dx = dy.clone();
  return nn::rms_norm_backward(*norm, dx, {}, stored, rstd);
}

at::Tensor run_forward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape& tape) {
  LlamaBlockImpl& block = *call.block;
  LlamaAttentionImpl& attention = *block.self_attn;
  const Linears linears = linears_of(block);
  const auto rows = x.size(0);
  const auto run = [&](Place place, const at::Tensor& input, const nn::RowContext& context) {
    return nn::manual_forward(*linears[place], input, context, tape.deltas[place]);
  };
  {
    const nn::RmsNormResult first = nn::rms_norm_forward(*block.input_layernorm, x);
    tape.rstd1 = first.rstd;
    tape.q = run(kQuery, first.y, call.context).view({rows, attention.heads(), -1});
    tape.k = run(kKey, first.y, call.context).view({rows, attention.kv_heads(), -1});
    tape.v = run(kValue, first.y, call.context).view({rows, attention.kv_heads(), -1});
  }
  at::Tensor q = tape.q;
  at::Tensor k = tape.k;
  if (!attention.q_norm.is_empty()) {
    const nn::RmsNormResult of_q = nn::rms_norm_forward(*attention.q_norm, rows_of_heads(q));
    const nn::RmsNormResult of_k = nn::rms_norm_forward(*attention.k_norm, rows_of_heads(k));
    q = of_q.y.view(q.sizes());
    k = of_k.y.view(k.sizes());
    tape.rstd_q = of_q.rstd;
    tape.rstd_k = of_k.rstd;
  }
  nn::rotate_in_place(q, k, call.rotary);
  tape.attended = nn::attention_forward(q, k, tape.v, call.context, call.output_rows, prefix);
  const at::Tensor kept = call.some() ? x.index_select(0, call.output_rows) : x;
  const nn::RowContext& after = call.rows_after_attention();
  tape.x1 = norm_after(block.post_self_attn_layernorm,
                       run(kOutput, tape.attended.output.view({kept.size(0), -1}), after), tape.o, tape.rstd_o);
  {
    const nn::RmsNormResult second = nn::add_then_rms_norm(*block.post_attention_layernorm, tape.x1, kept);
    tape.rstd2 = second.rstd;
    tape.gate = run(kGate, second.y, after);
    tape.up = linears[kUp] != nullptr ? run(kUp, second.y, after) : at::Tensor();
  }
  const auto [gate, up] = tape.gate_up();
  at::Tensor y =
      norm_after(block.post_mlp_layernorm, run(kDown, nn::swiglu(gate, up), after), tape.down, tape.rstd_down);
  return y.add_(tape.x1);
}

class Backward {
 public:
  Backward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape tape,
           const at::Tensor& expert_weights)
      : call_(call),
        block_(*call.block),
        linears_(linears_of(block_)),
        after_(call.rows_after_attention()),
        x_(x),
        prefix_(prefix),
        tape_(std::move(tape)) {
    for (nn::DeltaGradients& of_linear : found_) {
      of_linear.expert_weights = expert_weights;
    }
  }

  BlockGradients run(const at::Tensor& dy, bool need_dx) {
    BlockGradients result;
    const at::Tensor dx1 = mlp(dy);
    const bool through_attention =
        need_dx || prefix_.defined() || has_delta(kQuery) || has_delta(kKey) || has_delta(kValue);
    const at::Tensor attended = tape_.attended.output.view({dx1.size(0), -1});
    const at::Tensor dattended =
        backward(kOutput, norm_after_backward(block_.post_self_attn_layernorm, dx1, tape_.o, tape_.rstd_o).contiguous(),
                 nn::StoredRows(attended), after_, through_attention);
    if (through_attention) {
      at::Tensor da = attention(dattended, need_dx, result.prefix);
      if (need_dx) {
        result.x =
            nn::rms_norm_backward(*block_.input_layernorm, da, call_.some() ? at::Tensor() : dx1, x_, tape_.rstd1);
        if (call_.some()) {
          result.x.index_add_(0, call_.output_rows, dx1);
        }
      }
    }
    for (nn::DeltaGradients& of_linear : found_) {
      result.trained.insert(result.trained.end(), of_linear.trained.begin(), of_linear.trained.end());
    }
    return result;
  }

 private:
  bool has_delta(Place place) const { return linears_[place]->active_delta() != nullptr; }

  at::Tensor backward(Place place, const at::Tensor& gradient, const nn::RowSource& input,
                      const nn::RowContext& context, bool need) {
    return nn::manual_backward(*linears_[place], gradient, input, tape_.deltas[place], context, need, found_[place]);
  }
  // For one of several linears of the same input.
  void add_backward(Place place, const at::Tensor& gradient, const nn::RowSource& input, const nn::RowContext& context,
                    at::Tensor& dx) {
    nn::add_manual_backward(*linears_[place], gradient, input, tape_.deltas[place], context, dx, found_[place]);
  }

  // The gradient for x1, the residual's part included.
  at::Tensor mlp(const at::Tensor& dy) {
    at::Tensor dinner;
    const auto [gate, up] = tape_.gate_up();
    {
      const at::Tensor ddown = norm_after_backward(block_.post_mlp_layernorm, dy, tape_.down, tape_.rstd_down);
      dinner = backward(kDown, ddown, nn::SwiGluRows(gate, up), after_, true);
    }
    const nn::RmsNorm& norm = block_.post_attention_layernorm;
    const nn::RmsNormalisedRows input(norm, tape_.x1, tape_.rstd2);
    at::Tensor dmiddle;
    if (linears_[kUp] == nullptr) {
      const at::Tensor both = at::empty_like(tape_.gate);
      const auto [dgate, dup] = nn::gate_and_up(both);
      nn::swiglu_backward(dinner, gate, up, dgate, dup);
      dinner = at::Tensor();
      dmiddle = backward(kGate, both, input, after_, true);
    } else {
      at::Tensor dgate = at::empty_like(gate);
      nn::swiglu_backward(dinner, gate, up, dgate, dinner);
      dmiddle = backward(kGate, dgate, input, after_, true);
      dgate = at::Tensor();
      add_backward(kUp, dinner, input, after_, dmiddle);
    }
    tape_.gate = tape_.up = at::Tensor();
    return nn::rms_norm_backward(*norm, dmiddle, dy, tape_.x1, tape_.rstd2);
  }

  // The gradient for what q, k and v are made of; undefined unless need_dx.
  at::Tensor attention(const at::Tensor& dattended, bool need_dx, nn::KeyValuePrefix& dprefix) {
    const nn::RmsNorm& q_norm = block_.self_attn->q_norm;
    const nn::RmsNorm& k_norm = block_.self_attn->k_norm;
    at::Tensor q = tape_.q;
    at::Tensor k = tape_.k;
    if (!q_norm.is_empty()) {
      q = nn::rms_norm_again(*q_norm, rows_of_heads(q), tape_.rstd_q).view(q.sizes());
      k = nn::rms_norm_again(*k_norm, rows_of_heads(k), tape_.rstd_k).view(k.sizes());
      nn::rotate_in_place(q, k, call_.rotary);
    }
    at::Tensor dq = at::empty_like(q);
    at::Tensor dk = at::empty_like(k);
    at::Tensor dv = at::empty_like(tape_.v);
    const at::Tensor dheads = dattended.view(tape_.attended.output.sizes());
    if (prefix_.defined()) {
      dprefix = nn::attention_backward(dheads, q, k, tape_.v, tape_.attended, call_.context, call_.output_rows, prefix_,
                                       dq, dk, dv);
    } else {
      nn::attention_backward(dheads, q, k, tape_.v, tape_.attended, call_.context, call_.output_rows, dq, dk, dv);
    }
    nn::rotate_in_place(dq, dk, call_.rotary, /*inverse=*/true);
    const auto rows = x_.size(0);
    const auto through_norm = [&](const nn::RmsNorm& norm, const at::Tensor& gradient, const at::Tensor& input,
                                  const at::Tensor& rstd) {
      at::Tensor flat = gradient.view({-1, gradient.size(2)});
      return norm.is_empty() ? flat : nn::rms_norm_backward(*norm, flat, {}, rows_of_heads(input), rstd);
    };
    dq = through_norm(q_norm, dq, tape_.q, tape_.rstd_q);
    dk = through_norm(k_norm, dk, tape_.k, tape_.rstd_k);
    const nn::RmsNormalisedRows input(block_.input_layernorm, x_, tape_.rstd1);
    at::Tensor da = backward(kQuery, dq.view({rows, -1}), input, call_.context, need_dx);
    add_backward(kKey, dk.view({rows, -1}), input, call_.context, da);
    add_backward(kValue, dv.view({rows, -1}), input, call_.context, da);
    return da;
  }

  const Call& call_;
  LlamaBlockImpl& block_;
  Linears linears_;
  const nn::RowContext& after_;
  const at::Tensor& x_;
  const nn::KeyValuePrefix& prefix_;
  Tape tape_;
  std::array<nn::DeltaGradients, kLinears> found_;
};

struct ByHand {
  using Block = LlamaBlockImpl;
  using Tape = llama::Tape;
  static Linears linears(Block& block) { return linears_of(block); }
  static at::Tensor forward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape& tape) {
    return run_forward(call, x, prefix, tape);
  }
  static BlockGradients backward(const Call& call, const at::Tensor& x, const nn::KeyValuePrefix& prefix, Tape tape,
                                 const at::Tensor& dy, bool need_dx, const at::Tensor& dweights) {
    return Backward(call, x, prefix, std::move(tape), dweights).run(dy, need_dx);
  }
};

}  // namespace
}  // namespace llama

bool supports_fused_block(LlamaBlockImpl& block, const LayerInput& input) {
  if (input.cache != nullptr) {
    return false;
  }
  const llama::Linears linears = llama::linears_of(block);
  const std::vector<const nn::RmsNormImpl*> norms = llama::norms_of(block);
  return std::all_of(linears.begin(), linears.end(),
                     [](const auto* linear) { return linear == nullptr || nn::supports_manual_backward(*linear); }) &&
         std::none_of(norms.begin(), norms.end(), [](const auto* norm) { return norm->weight.requires_grad(); });
}

at::Tensor fused_block(std::shared_ptr<LlamaBlockImpl> block, const at::Tensor& x, const LayerInput& input) {
  return apply_block<llama::ByHand>(std::move(block), x, input);
}

}  // namespace moelora::model
