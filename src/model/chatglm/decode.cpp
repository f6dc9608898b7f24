#include "model/chatglm/decode.h"

#include <ATen/ops/gelu.h>

#include "moelora/model/chatglm/rotary.h"

namespace moelora::model {

at::Tensor decode_rows(ChatGlmImpl& model, at::Tensor x, const at::Tensor& positions, const nn::RowContext& context,
                       KvCache& cache) {
  const ModelShape shape = model.shape();
  const auto heads = shape.heads;
  const auto head_dim = shape.head_dim;
  const auto rows = x.size(0);
  const nn::Rotary rotary = chatglm_rotary(positions, head_dim, x.scalar_type()).to(at::kFloat);
  const auto norm_before = [&](std::int64_t layer) -> nn::LayerNormImpl& {
    return layer == shape.layers ? *model.transformer->final_layernorm
                                 : *model.transformer->layers[layer]->as<ChatGlmBlock>()->input_layernorm;
  };
  at::Tensor a = nn::norm_forward(norm_before(0), x).y;
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    auto& block = *model.transformer->layers[layer]->as<ChatGlmBlock>();
    const at::Tensor mixed = block.attention->query_key_value->forward(a, context).view({rows, heads, 3 * head_dim});
    const at::Tensor attended =
        cache.append_row(layer, mixed.narrow(2, 0, head_dim), mixed.narrow(2, head_dim, head_dim),
                         mixed.narrow(2, 2 * head_dim, head_dim), rotary);
    at::Tensor sum = block.attention->dense->forward(attended.view({rows, heads * head_dim}), context);
    const at::Tensor m = nn::add_then_norm(*block.post_attention_layernorm, sum, a, ChatGlmConfig::kResidualAlpha).y;
    at::Tensor inner = block.mlp->dense_h_to_4h->forward(m, context);
    x = block.mlp->dense_4h_to_h->forward(at::gelu_(inner, "tanh"), context);
    a = nn::add_then_norm(norm_before(layer + 1), x, m, ChatGlmConfig::kResidualAlpha).y;
  }
  return a;
}

}  // namespace moelora::model
