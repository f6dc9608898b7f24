#include "moelora/model/chatglm/chatglm.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "model/chatglm/block_function.h"
#include "model/chatglm/decode.h"
#include "moelora/io/error.h"
#include "moelora/model/chatglm/rotary.h"
#include "moelora/model/kv_cache.h"

namespace moelora::model {
namespace {

nn::Linear make_linear(const TensorSource& source, const std::string& name, std::int64_t in_features,
                       std::int64_t out_features) {
  return nn::Linear(source(name + ".weight", {out_features, in_features}), source(name + ".bias", {out_features}));
}

nn::LayerNorm make_norm(const TensorSource& source, const std::string& name, const ChatGlmConfig& config) {
  return nn::LayerNorm(source(name + ".weight", {config.hidden_size}), source(name + ".bias", {config.hidden_size}),
                       config.layernorm_epsilon);
}

nn::Linear make_head(at::Tensor weight) {
  nn::Linear head(std::move(weight), at::Tensor());
  head->refuse_deltas(
      "the head runs on single rows without their RowContext, and in the published model its weight is the "
      "embedding's, "
      "which a merge must not change");
  return head;
}

void check_prefix(const nn::RowContext& context, const ChatGlmConfig& config) {
  MOELORA_CHECK(context.prefix.empty() || static_cast<std::int64_t>(context.prefix.size()) == config.num_layers,
                "expected one key/value prefix for each of ", config.num_layers, " layers, found ",
                context.prefix.size(), "; make the context with an adapter of this model");
}

}  // namespace

ExpectedTensors expected_tensors(const ChatGlmConfig& config) {
  const auto h = config.hidden_size;
  const auto inner = config.inner_hidden_size;
  ExpectedTensors expected;
  expected.tied_head = TiedHead{"transformer.word_embeddings.weight", "lm_head.weight"};
  auto& tensors = expected.tensors;
  tensors = {{expected.tied_head->embedding, {config.vocab_size, h}}};
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "transformer.layers." + std::to_string(layer) + ".";
    tensors.insert(tensors.end(), {{prefix + "input_layernorm.weight", {h}},
                                   {prefix + "input_layernorm.bias", {h}},
                                   {prefix + "attention.query_key_value.weight", {3 * h, h}},
                                   {prefix + "attention.query_key_value.bias", {3 * h}},
                                   {prefix + "attention.dense.weight", {h, h}},
                                   {prefix + "attention.dense.bias", {h}},
                                   {prefix + "post_attention_layernorm.weight", {h}},
                                   {prefix + "post_attention_layernorm.bias", {h}},
                                   {prefix + "mlp.dense_h_to_4h.weight", {inner, h}},
                                   {prefix + "mlp.dense_h_to_4h.bias", {inner}},
                                   {prefix + "mlp.dense_4h_to_h.weight", {h, inner}},
                                   {prefix + "mlp.dense_4h_to_h.bias", {h}}});
  }
  tensors.insert(tensors.end(), {{"transformer.final_layernorm.weight", {h}},
                                 {"transformer.final_layernorm.bias", {h}},
                                 {expected.tied_head->head, {config.vocab_size, h}}});
  return expected;
}

ChatGlmAttentionImpl::ChatGlmAttentionImpl(const ChatGlmConfig& config, const TensorSource& source,
                                           const std::string& prefix)
    : torch::nn::Module("ChatGlmAttention"), heads_(config.num_attention_heads), head_dim_(config.head_dim()) {
  query_key_value = register_module(
      "query_key_value", make_linear(source, prefix + "query_key_value", config.hidden_size, 3 * config.hidden_size));
  dense = register_module("dense", make_linear(source, prefix + "dense", config.hidden_size, config.hidden_size));
}

at::Tensor ChatGlmAttentionImpl::forward(const at::Tensor& x, const LayerInput& input) {
  const at::Tensor mixed = query_key_value->forward(x, input.context).view({x.size(0), heads_, 3 * head_dim_});
  at::Tensor q = mixed.narrow(2, 0, head_dim_);
  at::Tensor k = mixed.narrow(2, head_dim_, head_dim_);
  if (!x.is_cpu() && !at::GradMode::is_enabled()) {
    nn::rotate_in_place(q, k, input.rotary);
  } else {
    q = nn::apply_rotary(q, input.rotary);
    k = nn::apply_rotary(k, input.rotary);
  }
  const at::Tensor v = mixed.narrow(2, 2 * head_dim_, head_dim_);
  const at::Tensor attended = input.cache != nullptr
                                  ? input.cache->append_and_attend(input.layer, q, k, v, input.context, input.prefix())
                                  : nn::prefix_lm_attention(q, k, v, input.context, input.prefix());
  const at::Tensor rows = attended.reshape({x.size(0), heads_ * head_dim_});
  return input.output_rows.defined() ? dense->forward(rows.index_select(0, input.output_rows), input.output_context)
                                     : dense->forward(rows, input.context);
}

ChatGlmMlpImpl::ChatGlmMlpImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("ChatGlmMlp") {
  dense_h_to_4h = register_module(
      "dense_h_to_4h", make_linear(source, prefix + "dense_h_to_4h", config.hidden_size, config.inner_hidden_size));
  dense_4h_to_h = register_module(
      "dense_4h_to_h", make_linear(source, prefix + "dense_4h_to_h", config.inner_hidden_size, config.hidden_size));
}

at::Tensor ChatGlmMlpImpl::forward(const at::Tensor& x, const nn::RowContext& context) {
  return dense_4h_to_h->forward(at::gelu(dense_h_to_4h->forward(x, context), "tanh"), context);
}

ChatGlmBlockImpl::ChatGlmBlockImpl(const ChatGlmConfig& config, const TensorSource& source, const std::string& prefix)
    : torch::nn::Module("ChatGlmBlock") {
  input_layernorm = register_module("input_layernorm", make_norm(source, prefix + "input_layernorm", config));
  attention = register_module("attention", ChatGlmAttention(config, source, prefix + "attention."));
  post_attention_layernorm =
      register_module("post_attention_layernorm", make_norm(source, prefix + "post_attention_layernorm", config));
  mlp = register_module("mlp", ChatGlmMlp(config, source, prefix + "mlp."));
}

at::Tensor ChatGlmBlockImpl::forward(const at::Tensor& x, const LayerInput& input) {
  if (!supports_fused_block(*this, input)) {
    return forward_reference(x, input);
  }
  return fused_block(std::static_pointer_cast<ChatGlmBlockImpl>(shared_from_this()), x, input);
}

at::Tensor ChatGlmBlockImpl::forward_reference(const at::Tensor& x, const LayerInput& input) {
  const bool some = input.output_rows.defined();
  const at::Tensor normalised = input_layernorm->forward(x);
  const at::Tensor attended = attention->forward(normalised, input);
  const at::Tensor kept = some ? normalised.index_select(0, input.output_rows) : normalised;
  const at::Tensor middle = post_attention_layernorm->forward(at::add(attended, kept, ChatGlmConfig::kResidualAlpha));
  return at::add(mlp->forward(middle, some ? input.output_context : input.context), middle,
                 ChatGlmConfig::kResidualAlpha);
}

ChatGlmTransformerImpl::ChatGlmTransformerImpl(const ChatGlmConfig& config, const TensorSource& source,
                                               const std::string& prefix)
    : torch::nn::Module("ChatGlmTransformer") {
  word_embeddings = register_module("word_embeddings", nn::Embedding(source(prefix + "word_embeddings.weight",
                                                                            {config.vocab_size, config.hidden_size})));
  layers = register_module("layers", torch::nn::ModuleList());
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    layers->push_back(ChatGlmBlock(config, source, prefix + "layers." + std::to_string(layer) + "."));
  }
  final_layernorm = register_module("final_layernorm", make_norm(source, prefix + "final_layernorm", config));
}

ChatGlmImpl::ChatGlmImpl(const ChatGlmConfig& config, const TensorSource& source)
    : CausalLM("ChatGlm"), config_(config) {
  transformer = register_module("transformer", ChatGlmTransformer(config, source, "transformer."));
  lm_head = register_module("lm_head", make_head(source("lm_head.weight", {config.vocab_size, config.hidden_size})));
}

at::Tensor ChatGlmImpl::hidden(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                               const ForwardOptions& options) {
  MOELORA_CHECK(ids.dim() == 1 && ids.size(0) == context.rows() && positions.dim() == 2 && positions.size(0) == 2 &&
                    positions.size(1) == ids.size(0),
                "expected ids [rows] and positions [2, rows] with rows = ", context.rows(), ", found ids ", ids.sizes(),
                " and positions ", positions.sizes());
  check_prefix(context, config_);
  at::Tensor x =
      options.input_embeddings.defined() ? options.input_embeddings : transformer->word_embeddings->forward(ids);
  if (options.cache != nullptr && options.cache->supports_append_row()) {
    x = decode_rows(*this, x, positions, context, *options.cache);
    options.cache->advance(context.segments);
    return options.output_rows.defined() ? x.index_select(0, options.output_rows) : x;
  }
  const nn::Rotary rotary = chatglm_rotary(positions, config_.head_dim(), x.scalar_type());
  LayerInput input{rotary, context, 0, options.cache, {}, {}};
  for (std::int64_t layer = 0; layer < config_.num_layers; ++layer) {
    input.layer = layer;
    input.recompute = layer < options.recomputed_blocks;
    if (layer + 1 == config_.num_layers && options.output_rows.defined()) {
      input.output_rows = options.output_rows;
      input.output_context = context.select(options.output_rows);
    }
    x = transformer->layers[layer]->as<ChatGlmBlock>()->forward(x, input);
  }
  if (options.cache != nullptr) {
    options.cache->advance(context.segments);
  }
  return transformer->final_layernorm->forward(x);
}

void ChatGlmImpl::visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                                const OutputVisitor& visit) {
  check_prefix(context, config_);
  at::Tensor x = transformer->word_embeddings->forward(ids);
  bool wanted = visit("transformer.word_embeddings", x);
  const nn::Rotary rotary = chatglm_rotary(positions, config_.head_dim(), x.scalar_type());
  for (std::int64_t layer = 0; wanted && layer < config_.num_layers; ++layer) {
    const LayerInput input{rotary, context, layer, nullptr, {}, {}};
    x = transformer->layers[layer]->as<ChatGlmBlock>()->forward(x, input);
    wanted = visit("transformer.layers." + std::to_string(layer), x);
  }
  if (wanted) {
    x = transformer->final_layernorm->forward(x);
    wanted = visit("transformer.final_layernorm", x);
  }
  if (wanted) {
    visit("lm_head", logits(x.narrow(0, x.size(0) - 1, 1)));
  }
}

at::Tensor ChatGlmImpl::head_weight() const { return lm_head->weight; }

at::Tensor ChatGlmImpl::logits(const at::Tensor& hidden_rows) { return lm_head->forward(hidden_rows); }

at::Tensor ChatGlmImpl::positions(const nn::Segments& segments) const {
  at::Tensor result = at::empty({2, segments.rows()}, at::kLong);
  auto* first = result.mutable_data_ptr<std::int64_t>();
  auto* second = first + segments.rows();
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto context = segments.bidirectional[i];
    for (std::int64_t row = 0; row < segments.length(i); ++row) {
      // Row 0 counts up to the gMASK, the last context row, and stays there; row 1 counts from <sop> on.
      first[segments.offsets[i] + row] = std::min(row, std::max<std::int64_t>(context - 1, 0));
      second[segments.offsets[i] + row] = std::max<std::int64_t>(row - context + 1, 0);
    }
  }
  return result;
}

at::Tensor ChatGlmImpl::position_at(std::int64_t bidirectional_rows, std::int64_t index) const {
  at::Tensor result = at::empty({2, 1}, at::kLong);
  result[0][0] = std::min(index, std::max<std::int64_t>(bidirectional_rows - 1, 0));
  result[1][0] = std::max<std::int64_t>(index - bidirectional_rows + 1, 0);
  return result;
}

nn::Segments ChatGlmImpl::segments(const std::vector<std::int64_t>& lengths,
                                   const std::vector<std::int64_t>& label_begins) const {
  return nn::Segments::from_lengths(lengths, label_begins);
}

void ChatGlmImpl::tie_head() { lm_head = replace_module("lm_head", make_head(transformer->word_embeddings->weight)); }

bool ChatGlmImpl::head_is_tied() const { return lm_head->weight.is_same(transformer->word_embeddings->weight); }

}  // namespace moelora::model
