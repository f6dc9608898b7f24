#include "small_decoder.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>

#include <string>

#include "moelora/io/error.h"
#include "moelora/model/weights.h"

namespace moelora::bench {
namespace {

at::Tensor plain_norm(const at::Tensor& x, const nn::RmsNorm& norm) {
  return norm->weight * (x * at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + norm->epsilon()));
}

at::Tensor plain_linear(const at::Tensor& x, const nn::Linear& linear) { return at::linear(x, linear->weight); }

}  // namespace

model::Llama small_decoder() {
  model::LlamaConfig config;
  config.vocab_size = 49152;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_hidden_layers = 30;
  config.num_attention_heads = 9;
  config.num_key_value_heads = 3;
  config.head_dim = 64;
  config.max_position_embeddings = 8192;
  config.rms_norm_eps = 1e-5;
  config.rope.theta = 100000.0;
  config.tie_word_embeddings = true;
  config.eos_token_ids = {2};
  model::Llama model(config,
                     model::with_tied_head(model::random_tensors(0), *model::expected_tensors(config).tied_head));
  freeze(*model);
  return model;
}

Adapter small_decoder_adapter(model::Llama& model, std::int64_t tasks) {
  MoeLoraConfig config;
  config.num_experts = 8;
  config.rank = 16;
  config.alpha = 32.0;
  config.dropout = 0.1;
  config.targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  std::vector<std::string> names;
  for (std::int64_t task = 0; task < tasks; ++task) {
    names.push_back("task " + std::to_string(task));
  }
  Adapter adapter = inject(*model, config, TaskNames(names), "default");
  at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("B").normal_(0.0, 0.01, generator);
  }
  return adapter;
}

PlainDecoder::PlainDecoder(model::Llama model, const std::vector<const data::Example*>& examples)
    : model_(std::move(model)) {
  const auto count = static_cast<std::int64_t>(examples.size());
  const auto length = examples.front()->length();
  ids_ = at::empty({count, length}, at::kLong);
  labels_ = at::full({count, length}, -100, at::kLong);
  auto ids = ids_.accessor<std::int64_t, 2>();
  auto labels = labels_.accessor<std::int64_t, 2>();
  for (std::int64_t b = 0; b < count; ++b) {
    const data::Example& example = *examples[static_cast<std::size_t>(b)];
    MOELORA_CHECK(example.length() == length, "expected sequences of one length");
    for (std::int64_t t = 0; t < length; ++t) {
      ids[b][t] = example.ids[static_cast<std::size_t>(t)];
      if (t >= example.label_begin) {
        labels[b][t - 1] = ids[b][t];
      }
    }
  }
  const nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths({length}));
  const nn::Rotary rotary = model_->rotary(at::arange(length).unsqueeze(0), context, at::kFloat);
  cos_ = rotary.tables.cos;
  sin_ = rotary.tables.sin;
}

at::Tensor PlainDecoder::block(const at::Tensor& x, model::LlamaBlockImpl& block) const {
  auto& attention = *block.self_attn;
  const auto heads_of = [&](const at::Tensor& rows, std::int64_t heads) {
    return rows.view({x.size(0), x.size(1), heads, attention.head_dim()}).transpose(1, 2);
  };
  const auto turned = [&](const at::Tensor& rows) {
    const auto half = rows.size(-1) / 2;
    return rows * cos_ + at::cat({-rows.narrow(-1, half, half), rows.narrow(-1, 0, half)}, -1) * sin_;
  };
  const at::Tensor a = plain_norm(x, block.input_layernorm);
  const at::Tensor q = turned(heads_of(plain_linear(a, attention.q_proj), attention.heads()));
  const at::Tensor k = turned(heads_of(plain_linear(a, attention.k_proj), attention.kv_heads()));
  const at::Tensor v = heads_of(plain_linear(a, attention.v_proj), attention.kv_heads());
  const auto group = attention.heads() / attention.kv_heads();
  const at::Tensor attended =
      at::scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), {}, 0.0,
                                       /*is_causal=*/true);
  const at::Tensor y = x + plain_linear(attended.transpose(1, 2).reshape({x.size(0), x.size(1), -1}), attention.o_proj);
  const at::Tensor m = plain_norm(y, block.post_attention_layernorm);
  return y + plain_linear(at::silu(plain_linear(m, block.mlp->gate_proj)) * plain_linear(m, block.mlp->up_proj),
                          block.mlp->down_proj);
}

double PlainDecoder::step() {
  at::Tensor x = at::embedding(model_->model->embed_tokens->weight, ids_).requires_grad_();
  for (std::int64_t layer = 0; layer < model_->shape().layers; ++layer) {
    x = block(x, model_->block(layer));
  }
  const at::Tensor logits = at::linear(plain_norm(x, model_->model->norm), model_->lm_head->weight);
  const at::Tensor loss = at::cross_entropy_loss(logits.view({-1, logits.size(2)}), labels_.view(-1));
  loss.backward();
  return loss.item<double>();
}

}  // namespace moelora::bench
