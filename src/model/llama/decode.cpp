#include "model/llama/decode.h"

#include <utility>

#include "moelora/nn/linears_together.h"
#include "moelora/nn/rms_norm.h"
#include "moelora/nn/swiglu.h"

namespace moelora::model {
namespace {

at::Tensor normalised(const nn::RmsNorm& norm, const at::Tensor& x) {
  return norm.is_empty() ? x : nn::rms_norm_forward(*norm, x.view({-1, x.size(-1)})).y.view(x.sizes());
}

}  // namespace

at::Tensor decode_rows(LlamaImpl& model, const at::Tensor& x, const at::Tensor& positions,
                       const nn::RowContext& context, KvCache& cache) {
  const ModelShape shape = model.shape();
  const auto rows = x.size(0);
  const nn::Rotary rotary = model.rotary(positions, context, x.scalar_type()).to(at::kFloat);
  const auto norm_before = [&](std::int64_t layer) -> nn::RmsNormImpl& {
    return layer == shape.layers ? *model.model->norm : *model.block(layer).input_layernorm;
  };
  at::Tensor residual = x;
  at::Tensor a = nn::rms_norm_forward(norm_before(0), x.contiguous()).y;
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    LlamaBlockImpl& block = model.block(layer);
    LlamaAttentionImpl& attention = *block.self_attn;
    LlamaMlpImpl& mlp = *block.mlp;
    const auto heads_of = [&](const at::Tensor& mixed) { return mixed.view({rows, -1, shape.head_dim}); };
    const auto mixed =
        nn::forward_together({attention.q_proj.get(), attention.k_proj.get(), attention.v_proj.get()}, a, context);
    const at::Tensor q = normalised(attention.q_norm, heads_of(mixed[0]));
    const at::Tensor k = normalised(attention.k_norm, heads_of(mixed[1]));
    const at::Tensor v = heads_of(mixed[2]);
    const at::Tensor attended = cache.append_row(layer, q, k, v, rotary);
    at::Tensor sum =
        normalised(block.post_self_attn_layernorm,
                   attention.o_proj->forward(attended.view({rows, shape.heads * shape.head_dim}), context));
    const at::Tensor m = nn::add_then_rms_norm(*block.post_attention_layernorm, sum, residual).y;
    residual = std::exchange(sum, at::Tensor());
    nn::GateAndUp inner;
    if (mlp.gate_up_proj.is_empty()) {
      const auto both = nn::forward_together({mlp.gate_proj.get(), mlp.up_proj.get()}, m, context);
      inner = {both[0], both[1]};
    } else {
      inner = nn::gate_and_up(mlp.gate_up_proj->forward(m, context));
    }
    sum = normalised(block.post_mlp_layernorm, mlp.down_proj->forward(nn::swiglu(inner.gate, inner.up), context));
    a = nn::add_then_rms_norm(norm_before(layer + 1), sum, residual).y;
    residual = std::exchange(sum, at::Tensor());
  }
  return a;
}

}  // namespace moelora::model
