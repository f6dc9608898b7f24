#include "model/llama/gguf.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "moelora/nn/rotary.h"

namespace moelora::model {
namespace {

LlamaConfig shape_of(const std::string& model_type) {
  LlamaConfig config;
  config.model_type = model_type;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 8;
  if (model_type.starts_with("glm")) {
    config.pairing = nn::RotaryPairing::interleaved;
    config.rope.partial = 0.5;
    config.fused_gate_up = true;
  }
  return config;
}

TEST(LlamaGguf, EveryModelTypeHasItsArchitectureAndNames) {
  const std::vector<std::pair<std::string, std::string>> architectures{{"llama", "llama"}, {"mistral", "llama"},
                                                                       {"qwen2", "qwen2"}, {"qwen3", "qwen3"},
                                                                       {"glm", "chatglm"}, {"glm4", "glm4"}};
  for (const auto& [model_type, architecture] : architectures) {
    const LlamaConfig config = shape_of(model_type);
    const auto layout = gguf_layout(config);
    ASSERT_TRUE(layout) << model_type;
    EXPECT_EQ(layout->architecture, architecture);
    EXPECT_EQ(layout->linears.size(), config.fused_gate_up ? 12U : 14U) << model_type;
    EXPECT_EQ(layout->linears.at("model.layers.1.self_attn.o_proj").tensor, "blk.1.attn_output.weight");
    EXPECT_EQ(layout->linears.at("model.layers.0.mlp.down_proj").tensor, "blk.0.ffn_down.weight");
    EXPECT_EQ(
        layout->linears.at(config.fused_gate_up ? "model.layers.0.mlp.gate_up_proj" : "model.layers.0.mlp.up_proj")
            .tensor,
        "blk.0.ffn_up.weight");
    std::set<std::string> names;
    for (const auto& [linear, place] : layout->linears) {
      EXPECT_TRUE(names.insert(place.tensor).second) << place.tensor << " twice";
      const bool turned = linear.ends_with("q_proj") || linear.ends_with("k_proj");
      EXPECT_EQ(!place.rows.empty(), turned && architecture == "llama") << model_type << " " << linear;
    }
  }
}

// llama.cpp turns neighbours, the checkpoint's model halves of a head: with the rows reordered both give the same head,
// in the file's order.
TEST(LlamaGguf, ReorderedRowsTurnedInNeighboursAreTheRowsTurnedInHalves) {
  const LlamaConfig config = shape_of("llama");
  const auto layout = gguf_layout(config);
  ASSERT_TRUE(layout);
  const at::Tensor positions = at::arange(5, at::kLong).unsqueeze(0);
  const at::Tensor frequencies = nn::rotary_frequencies(config.head_dim);
  for (const auto& [linear, count] :
       {std::pair{"q_proj", config.num_attention_heads}, std::pair{"k_proj", config.num_key_value_heads}}) {
    const std::int64_t heads = count;  // lambdas capture no structured bindings in clang 14
    const auto& rows = layout->linears.at(std::string("model.layers.0.self_attn.") + linear).rows;
    ASSERT_EQ(static_cast<std::int64_t>(rows.size()), heads * config.head_dim);
    const at::Tensor index = at::tensor(rows, at::kLong);
    const at::Tensor x = at::arange(5 * heads * config.head_dim, at::kFloat).sin().reshape({5, -1});
    const auto turned = [&](const at::Tensor& heads_side_by_side, nn::RotaryPairing pairing) {
      return nn::apply_rotary(heads_side_by_side.reshape({5, heads, config.head_dim}),
                              nn::make_rotary(positions, frequencies, pairing, at::kFloat))
          .reshape({5, -1});
    };
    const at::Tensor expected = turned(x, nn::RotaryPairing::half).index_select(1, index);
    const at::Tensor found = turned(x.index_select(1, index), nn::RotaryPairing::interleaved);
    EXPECT_LE((expected - found).abs().max().item<double>(), 1e-6) << linear;
    EXPECT_GT((turned(x, nn::RotaryPairing::half) - found).abs().max().item<double>(), 0.1) << "nothing was reordered";
  }
}

TEST(LlamaGguf, WhatLlamaCppTurnsOtherwiseHasNoLayout) {
  LlamaConfig config = shape_of("llama");
  config.rope.partial = 0.5;
  EXPECT_FALSE(gguf_layout(config));
  config = shape_of("qwen2");
  config.pairing = nn::RotaryPairing::interleaved;
  EXPECT_FALSE(gguf_layout(config));
  config = shape_of("unheard_of");
  EXPECT_FALSE(gguf_layout(config));
}

}  // namespace
}  // namespace moelora::model
