#include "model/llama/decode.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <vector>

namespace moelora::model {
namespace {

using ChangeLlama = void (*)(LlamaConfig&);

void as_it_is(LlamaConfig&) {}
void queries_normalised(LlamaConfig& config) { config.query_key_norm = true; }
void fused_and_interleaved(LlamaConfig& config) {
  config.pairing = nn::RotaryPairing::interleaved;
  config.rope.partial = 0.5;
  config.fused_gate_up = config.attention_bias = config.norms_after = true;
}

Llama small_llama(ChangeLlama change, at::ScalarType dtype) {
  LlamaConfig config;
  config.vocab_size = 60;
  config.hidden_size = 36;
  config.intermediate_size = 72;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 6;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  change(config);
  Llama model(config, random_tensors(3));
  at::manual_seed(4);
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : model->parameters()) {
    parameter.add_(at::randn_like(parameter), 0.1);
  }
  model->to(dtype);
  return model;
}

// Sequences of several lengths: each new row's hidden state is that of the whole sequence without a cache.
TEST(DecodeLlama, RowsAreThoseOfWholeSequences) {
  at::NoGradGuard no_grad;
  const std::vector<std::int64_t> lengths{5, 1, 9};
  constexpr std::int64_t kSteps = 4;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const ChangeLlama change : {as_it_is, queries_normalised, fused_and_interleaved}) {
      Llama model = small_llama(change, dtype);
      const at::Tensor ids = at::randint(60, {3, 9 + kSteps}, at::kLong);
      const auto of = [&](std::int64_t sequence, std::int64_t first, std::int64_t count) {
        return ids[sequence].narrow(0, first, count);
      };
      KvCache cache(model->shape(), 3, 2, dtype, at::kCPU);
      const nn::Segments prompts = nn::Segments::from_lengths(lengths);
      ForwardOptions options;
      options.cache = &cache;
      model->hidden(at::cat({of(0, 0, 5), of(1, 0, 1), of(2, 0, 9)}), model->positions(prompts),
                    nn::RowContext::plain(prompts), options);
      for (std::int64_t step = 0; step < kSteps; ++step) {
        ASSERT_TRUE(cache.supports_append_row());
        std::vector<at::Tensor> next, positions;
        for (std::size_t i = 0; i < lengths.size(); ++i) {
          next.push_back(of(static_cast<std::int64_t>(i), lengths[i] + step, 1));
          positions.push_back(model->position_at(0, lengths[i] + step));
        }
        const at::Tensor rows = model->hidden(at::cat(next), at::cat(positions, 1),
                                              nn::RowContext::plain(nn::Segments::from_lengths({1, 1, 1})), options);
        for (std::size_t i = 0; i < lengths.size(); ++i) {
          const auto length = lengths[i] + step + 1;
          const nn::Segments whole = nn::Segments::from_lengths({length});
          const at::Tensor expected = model->hidden(of(static_cast<std::int64_t>(i), 0, length),
                                                    model->positions(whole), nn::RowContext::plain(whole))[length - 1];
          EXPECT_LE((rows[static_cast<std::int64_t>(i)] - expected).abs().max().item<double>(),
                    (dtype == at::kFloat ? 1e-5 : 6e-2) * expected.abs().max().item<double>())
              << dtype << " sequence " << i << " step " << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace moelora::model
