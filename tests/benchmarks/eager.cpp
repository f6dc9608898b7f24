#include "eager.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "moelora/model/chatglm/rotary.h"

namespace moelora::bench {
namespace {

at::Tensor rotate_half(const at::Tensor& x) {
  const auto half = x.size(-1) / 2;
  return at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
}

// x [B, T, heads, d]; the halves of a head are rotated by the two rows of positions.
at::Tensor rotate(const at::Tensor& x, const nn::RotaryTables& first, const nn::RotaryTables& second) {
  const auto half = x.size(-1) / 2;
  const auto turn = [](const at::Tensor& part, const nn::RotaryTables& tables) {
    return part * tables.cos + rotate_half(part) * tables.sin;
  };
  return at::cat({turn(x.narrow(-1, 0, half), first), turn(x.narrow(-1, half, half), second)}, -1);
}

nn::RotaryTables tables_for(const at::Tensor& positions, std::int64_t half) {
  nn::RotaryTables tables = model::chatglm_rotary_axis(positions.reshape({-1}), half, at::kFloat);
  const auto shape = {positions.size(0), positions.size(1), std::int64_t{1}, half};
  return {tables.cos.view(shape), tables.sin.view(shape)};
}

class EagerForward {
 public:
  EagerForward(const PaddedBatch& batch, const EagerMoeLora* moelora) : batch_(batch), moelora_(moelora) {
    if (moelora_ != nullptr) {
      weights_ = at::softmax(at::linear(moelora_->task_embedding.index_select(0, batch.tasks), moelora_->gate), 1);
    }
  }

  at::Tensor linear(const at::Tensor& x, const nn::Linear& linear) {
    at::Tensor result = at::linear(x, linear->weight, linear->bias);
    if (moelora_ != nullptr) {
      const auto& experts = moelora_->experts[next_++];
      for (std::size_t i = 0; i < experts.size(); ++i) {
        const at::Tensor dropped = at::dropout(x, moelora_->dropout, /*train=*/true);
        const at::Tensor weight = weights_.select(1, static_cast<std::int64_t>(i)).view({-1, 1, 1});
        result += at::linear(at::linear(dropped, experts[i].A), experts[i].B) * moelora_->scaling * weight;
      }
    }
    return result;
  }

  at::Tensor norm(const at::Tensor& x, const nn::LayerNorm& norm) {
    return at::layer_norm(x, {x.size(-1)}, norm->weight, norm->bias, 1e-5);
  }

  at::Tensor block(const at::Tensor& x, model::ChatGlmBlockImpl& block, std::int64_t heads,
                   const nn::RotaryTables& first, const nn::RotaryTables& second) {
    const double alpha = model::ChatGlmConfig::kResidualAlpha;
    const auto B = x.size(0);
    const auto T = x.size(1);
    const auto d = x.size(2) / heads;
    const at::Tensor a = norm(x, block.input_layernorm);
    const at::Tensor mixed = linear(a, block.attention->query_key_value).view({B, T, heads, 3 * d});
    const at::Tensor q = rotate(mixed.narrow(3, 0, d), first, second).transpose(1, 2);
    const at::Tensor k = rotate(mixed.narrow(3, d, d), first, second).transpose(1, 2);
    const at::Tensor v = mixed.narrow(3, 2 * d, d).transpose(1, 2);
    const at::Tensor scores = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(d));
    const at::Tensor p = at::softmax(scores.masked_fill(batch_.hidden, -10000.0), -1);
    const at::Tensor attended = at::matmul(p, v).transpose(1, 2).reshape({B, T, heads * d});
    const at::Tensor m = norm(a * alpha + linear(attended, block.attention->dense), block.post_attention_layernorm);
    const at::Tensor inner = at::gelu(linear(m, block.mlp->dense_h_to_4h), "tanh");
    return m * alpha + linear(inner, block.mlp->dense_4h_to_h);
  }

 private:
  const PaddedBatch& batch_;
  const EagerMoeLora* moelora_;
  at::Tensor weights_;  // [B, N]
  std::size_t next_ = 0;
};

}  // namespace

EagerMoeLora::EagerMoeLora(const model::ChatGlmConfig& config, std::int64_t num_experts, std::int64_t rank,
                           std::int64_t tasks) {
  const auto h = config.hidden_size;
  const auto inner = config.inner_hidden_size;
  const auto share = rank / num_experts;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const auto& [in, out] : {std::pair{h, 3 * h}, {h, h}, {h, inner}, {inner, h}}) {
      auto& pairs = experts.emplace_back();
      for (std::int64_t i = 0; i < num_experts; ++i) {
        pairs.push_back(
            {(at::randn({share, in}) * 0.01).requires_grad_(), (at::randn({out, share}) * 0.01).requires_grad_()});
      }
    }
  }
  task_embedding = at::randn({tasks, 64}).requires_grad_();
  gate = (at::randn({num_experts, 64}) / 8.0).requires_grad_();
}

std::vector<at::Tensor> EagerMoeLora::parameters() const {
  std::vector<at::Tensor> all{task_embedding, gate};
  for (const auto& pairs : experts) {
    for (const Pair& pair : pairs) {
      all.push_back(pair.A);
      all.push_back(pair.B);
    }
  }
  return all;
}

PaddedBatch pad(const std::vector<const data::Example*>& examples) {
  std::int64_t longest = 0;
  for (const data::Example* example : examples) {
    longest = std::max(longest, example->length());
  }
  const auto count = static_cast<std::int64_t>(examples.size());
  PaddedBatch batch{at::full({count, longest}, 3, at::kLong), at::zeros({2, count, longest}, at::kLong),
                    at::ones({count, 1, longest, longest}, at::kBool).triu(1),
                    at::full({count, longest}, -100, at::kLong), at::zeros({count}, at::kLong)};
  auto ids = batch.ids.accessor<std::int64_t, 2>();
  auto labels = batch.labels.accessor<std::int64_t, 2>();
  auto positions = batch.positions.accessor<std::int64_t, 3>();
  auto tasks = batch.tasks.accessor<std::int64_t, 1>();
  for (std::int64_t b = 0; b < count; ++b) {
    const data::Example& example = *examples[b];
    tasks[b] = example.task;
    for (std::int64_t t = 0; t < example.length(); ++t) {
      ids[b][t] = example.ids[t];
      positions[0][b][t] = std::min(t, example.label_begin - 1);
      positions[1][b][t] = std::max<std::int64_t>(t - example.label_begin + 1, 0);
      if (t >= example.label_begin) {
        labels[b][t - 1] = example.ids[t];
      }
    }
    batch.hidden[b].narrow(2, 0, example.label_begin).fill_(false);
  }
  return batch;
}

at::Tensor eager_loss(model::ChatGlm model, const PaddedBatch& batch, const EagerMoeLora* moelora) {
  at::Tensor x = at::embedding(model->transformer->word_embeddings->weight, batch.ids);
  if (moelora == nullptr) {
    x = x.detach().requires_grad_();
  }
  const auto half = model->config().head_dim() / 2;
  const nn::RotaryTables first = tables_for(batch.positions[0], half);
  const nn::RotaryTables second = tables_for(batch.positions[1], half);
  EagerForward forward(batch, moelora);
  for (std::int64_t layer = 0; layer < model->shape().layers; ++layer) {
    x = forward.block(x, *model->transformer->layers[layer]->as<model::ChatGlmBlock>(), model->shape().heads, first,
                      second);
  }
  x = forward.norm(x, model->transformer->final_layernorm);
  const at::Tensor logits = at::linear(x, model->lm_head->weight);
  return at::cross_entropy_loss(logits.view({-1, logits.size(-1)}), batch.labels.view({-1}), {}, at::Reduction::Mean,
                                -100);
}

}  // namespace moelora::bench
