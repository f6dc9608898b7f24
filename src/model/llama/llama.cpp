#include "moelora/model/llama/llama.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "model/llama/block_function.h"
#include "model/llama/decode.h"
#include "moelora/io/error.h"
#include "moelora/model/kv_cache.h"
#include "moelora/nn/attention.h"

namespace moelora::model {
namespace {

nn::Linear make_linear(const TensorSource& source, const std::string& name, std::int64_t in_features,
                       std::int64_t out_features, bool bias) {
  const at::Tensor weight = source(name + ".weight", {out_features, in_features});
  return nn::Linear(weight, bias ? source(name + ".bias", {out_features}) : at::Tensor());
}

nn::RmsNorm make_norm(const TensorSource& source, const std::string& name, std::int64_t width,
                      const LlamaConfig& config) {
  return nn::RmsNorm(source(name + ".weight", {width}), config.rms_norm_eps);
}

nn::Linear make_head(at::Tensor weight) {
  nn::Linear head(std::move(weight), at::Tensor());
  head->refuse_deltas(
      "the head runs on single rows without their RowContext, and in many of these models its weight is the "
      "embedding's, which a merge must not change");
  return head;
}

void check_prefix(const nn::RowContext& context, const LlamaConfig& config) {
  MOELORA_CHECK(context.prefix.empty() || static_cast<std::int64_t>(context.prefix.size()) == config.num_hidden_layers,
                "expected one key/value prefix for each of ", config.num_hidden_layers, " layers, found ",
                context.prefix.size(), "; make the context with an adapter of this model");
}

}  // namespace

ExpectedTensors expected_tensors(const LlamaConfig& config) {
  ExpectedTensors expected;
  auto& tensors = expected.tensors;
  // Asking the graph itself is what keeps names, order and shapes those that it has.
  const TensorSource listed = [&](const std::string& name, at::IntArrayRef shape) {
    tensors.emplace_back(name, shape.vec());
    return at::zeros({1}).expand(shape);
  };
  const LlamaDecoder decoder(config, listed, "model.");
  if (config.tie_word_embeddings) {
    expected.tied_head = TiedHead{"model.embed_tokens.weight", "lm_head.weight"};
  }
  tensors.emplace_back("lm_head.weight", std::vector<std::int64_t>{config.vocab_size, config.hidden_size});
  return expected;
}

LlamaAttentionImpl::LlamaAttentionImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("LlamaAttention"),
      heads_(config.num_attention_heads),
      kv_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim) {
  const auto linear = [&](const char* name, std::int64_t in_features, std::int64_t out_features, bool bias) {
    return register_module(name, make_linear(source, prefix + name, in_features, out_features, bias));
  };
  q_proj = linear("q_proj", config.hidden_size, heads_ * head_dim_, config.attention_bias);
  k_proj = linear("k_proj", config.hidden_size, kv_heads_ * head_dim_, config.attention_bias);
  v_proj = linear("v_proj", config.hidden_size, kv_heads_ * head_dim_, config.attention_bias);
  o_proj = linear("o_proj", heads_ * head_dim_, config.hidden_size, config.output_bias);
  if (config.query_key_norm) {
    q_norm = register_module("q_norm", make_norm(source, prefix + "q_norm", head_dim_, config));
    k_norm = register_module("k_norm", make_norm(source, prefix + "k_norm", head_dim_, config));
  }
}

at::Tensor LlamaAttentionImpl::forward(const at::Tensor& x, const LayerInput& input) {
  const std::int64_t rows = x.size(0);
  at::Tensor q = q_proj->forward(x, input.context).view({rows, heads_, head_dim_});
  at::Tensor k = k_proj->forward(x, input.context).view({rows, kv_heads_, head_dim_});
  const at::Tensor v = v_proj->forward(x, input.context).view({rows, kv_heads_, head_dim_});
  if (!q_norm.is_empty()) {
    q = q_norm->forward(q);
    k = k_norm->forward(k);
  }
  if (!x.is_cpu() && !at::GradMode::is_enabled()) {
    nn::rotate_in_place(q, k, input.rotary);
  } else {
    q = nn::apply_rotary(q, input.rotary);
    k = nn::apply_rotary(k, input.rotary);
  }
  const at::Tensor attended = input.cache != nullptr
                                  ? input.cache->append_and_attend(input.layer, q, k, v, input.context, input.prefix())
                                  : nn::prefix_lm_attention(q, k, v, input.context, input.prefix());
  const at::Tensor flat = attended.reshape({rows, heads_ * head_dim_});
  return input.output_rows.defined() ? o_proj->forward(flat.index_select(0, input.output_rows), input.output_context)
                                     : o_proj->forward(flat, input.context);
}

LlamaMlpImpl::LlamaMlpImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("LlamaMlp") {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t inner = config.intermediate_size;
  const auto linear = [&](const char* name, std::int64_t in_features, std::int64_t out_features) {
    return register_module(name, make_linear(source, prefix + name, in_features, out_features, config.mlp_bias));
  };
  if (config.fused_gate_up) {
    gate_up_proj = linear("gate_up_proj", hidden, 2 * inner);
  } else {
    gate_proj = linear("gate_proj", hidden, inner);
    up_proj = linear("up_proj", hidden, inner);
  }
  down_proj = linear("down_proj", inner, hidden);
}

at::Tensor LlamaMlpImpl::forward(const at::Tensor& x, const nn::RowContext& context) {
  at::Tensor gate, up;
  if (gate_up_proj.is_empty()) {
    gate = gate_proj->forward(x, context);
    up = up_proj->forward(x, context);
  } else {
    const std::vector<at::Tensor> halves = gate_up_proj->forward(x, context).chunk(2, 1);
    gate = halves[0];
    up = halves[1];
  }
  return down_proj->forward(at::silu(gate) * up, context);
}

LlamaBlockImpl::LlamaBlockImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("LlamaBlock") {
  const auto norm = [&](const char* name) {
    return register_module(name, make_norm(source, prefix + name, config.hidden_size, config));
  };
  input_layernorm = norm("input_layernorm");
  self_attn = register_module("self_attn", LlamaAttention(config, source, prefix + "self_attn."));
  if (config.norms_after) {
    post_self_attn_layernorm = norm("post_self_attn_layernorm");
  }
  post_attention_layernorm = norm("post_attention_layernorm");
  mlp = register_module("mlp", LlamaMlp(config, source, prefix + "mlp."));
  if (config.norms_after) {
    post_mlp_layernorm = norm("post_mlp_layernorm");
  }
}

at::Tensor LlamaBlockImpl::forward(const at::Tensor& x, const LayerInput& input) {
  if (!supports_fused_block(*this, input)) {
    return forward_reference(x, input);
  }
  return fused_block(std::static_pointer_cast<LlamaBlockImpl>(shared_from_this()), x, input);
}

at::Tensor LlamaBlockImpl::forward_reference(const at::Tensor& x, const LayerInput& input) {
  const bool some = input.output_rows.defined();
  at::Tensor attended = self_attn->forward(input_layernorm->forward(x), input);
  if (!post_self_attn_layernorm.is_empty()) {
    attended = post_self_attn_layernorm->forward(attended);
  }
  const at::Tensor middle = (some ? x.index_select(0, input.output_rows) : x) + attended;
  at::Tensor inner =
      mlp->forward(post_attention_layernorm->forward(middle), some ? input.output_context : input.context);
  if (!post_mlp_layernorm.is_empty()) {
    inner = post_mlp_layernorm->forward(inner);
  }
  return middle + inner;
}

LlamaDecoderImpl::LlamaDecoderImpl(const LlamaConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("LlamaDecoder") {
  embed_tokens = register_module(
      "embed_tokens", nn::Embedding(source(prefix + "embed_tokens.weight", {config.vocab_size, config.hidden_size})));
  layers = register_module("layers", torch::nn::ModuleList());
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    layers->push_back(LlamaBlock(config, source, prefix + "layers." + std::to_string(layer) + "."));
  }
  norm = register_module("norm", make_norm(source, prefix + "norm", config.hidden_size, config));
}

LlamaImpl::LlamaImpl(const LlamaConfig& config, const TensorSource& source)
    : CausalLM("Llama"), config_(config), rotary_(config) {
  model = register_module("model", LlamaDecoder(config, source, "model."));
  lm_head = register_module("lm_head", make_head(source("lm_head.weight", {config.vocab_size, config.hidden_size})));
}

at::Tensor LlamaImpl::hidden(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                             const ForwardOptions& options) {
  MOELORA_CHECK(ids.dim() == 1 && ids.size(0) == context.rows() && positions.dim() == 2 && positions.size(0) == 1 &&
                    positions.size(1) == ids.size(0),
                "expected ids [rows] and positions [1, rows] with rows = ", context.rows(), ", found ids ", ids.sizes(),
                " and positions ", positions.sizes());
  check_prefix(context, config_);
  at::Tensor x = options.input_embeddings.defined() ? options.input_embeddings : model->embed_tokens->forward(ids);
  if (options.cache != nullptr && options.cache->supports_append_row()) {
    x = decode_rows(*this, x, positions, context, *options.cache);
    options.cache->advance(context.segments);
    return options.output_rows.defined() ? x.index_select(0, options.output_rows) : x;
  }
  const nn::Rotary turned = rotary(positions, context, x.scalar_type());
  LayerInput input{turned, context, 0, options.cache, {}, {}};
  for (std::int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
    input.layer = layer;
    input.recompute = layer < options.recomputed_blocks;
    if (layer + 1 == config_.num_hidden_layers && options.output_rows.defined()) {
      input.output_rows = options.output_rows;
      input.output_context = context.select(options.output_rows);
    }
    x = block(layer).forward(x, input);
  }
  if (options.cache != nullptr) {
    options.cache->advance(context.segments);
  }
  return model->norm->forward(x);
}

void LlamaImpl::visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                              const OutputVisitor& visit) {
  check_prefix(context, config_);
  at::Tensor x = model->embed_tokens->forward(ids);
  bool wanted = visit("model.embed_tokens", x);
  const nn::Rotary turned = rotary(positions, context, x.scalar_type());
  for (std::int64_t layer = 0; wanted && layer < config_.num_hidden_layers; ++layer) {
    const LayerInput input{turned, context, layer, nullptr, {}, {}};
    x = block(layer).forward(x, input);
    wanted = visit("model.layers." + std::to_string(layer), x);
  }
  if (wanted) {
    x = model->norm->forward(x);
    wanted = visit("model.norm", x);
  }
  if (wanted) {
    visit("lm_head", logits(x.narrow(0, x.size(0) - 1, 1)));
  }
}

at::Tensor LlamaImpl::positions(const nn::Segments& segments) const {
  at::Tensor result = at::empty({1, segments.rows()}, at::kLong);
  auto* position = result.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    for (std::int64_t row = 0; row < segments.length(i); ++row) {
      position[segments.offsets[i] + row] = row;
    }
  }
  return result;
}

at::Tensor LlamaImpl::position_at(std::int64_t /*bidirectional_rows*/, std::int64_t index) const {
  return at::full({1, 1}, index, at::kLong);
}

}  // namespace moelora::model
