#include "moelora/model/llama/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/model/llama/family.h"
#include "moelora/model/registry.h"
#include "support/shared.h"

namespace moelora::model {
namespace {

using nlohmann::ordered_json;

ordered_json config_of(const std::string& type) {
  return {{"model_type", type},       {"vocab_size", 100},
          {"hidden_size", 64},        {"intermediate_size", 96},
          {"num_hidden_layers", 2},   {"num_attention_heads", 4},
          {"num_key_value_heads", 2}, {"max_position_embeddings", 128},
          {"sliding_window", nullptr}};
}

LlamaConfig with(const std::string& type, const ordered_json& changes) {
  ordered_json json = config_of(type);
  for (const auto& [key, value] : changes.items()) {
    json[key] = value;
  }
  return LlamaConfig::from_json(json);
}

std::string error_of(const std::string& type, const ordered_json& changes) {
  try {
    with(type, changes);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(LlamaConfig, ReadsTheModelTypesAsTheirClassesDo) {
  const LlamaConfig qwen2 = LlamaConfig::from_json(io::read_json_file(testing::fixtures() / "qwen2-tiny/config.json"));
  EXPECT_TRUE(qwen2.attention_bias && !qwen2.output_bias && qwen2.tie_word_embeddings && !qwen2.query_key_norm);
  EXPECT_EQ(qwen2.head_dim, 16);
  EXPECT_EQ(qwen2.rope.theta, 1e6);
  const LlamaConfig qwen3 = LlamaConfig::from_json(io::read_json_file(testing::fixtures() / "qwen3-tiny/config.json"));
  EXPECT_TRUE(!qwen3.attention_bias && qwen3.query_key_norm && !qwen3.tie_word_embeddings);
  EXPECT_EQ(qwen3.head_dim, 32);
  const LlamaConfig llama = LlamaConfig::from_json(io::read_json_file(testing::fixtures() / "llama3-tiny/config.json"));
  EXPECT_EQ(llama.rope.type, LlamaRope::Type::llama3);
  EXPECT_EQ(llama.rope.original_max_position_embeddings, 64);
  const LlamaConfig glm = LlamaConfig::from_json(io::read_json_file(testing::fixtures() / "glm-tiny/config.json"));
  EXPECT_TRUE(glm.fused_gate_up && glm.attention_bias && !glm.output_bias && !glm.norms_after);
  EXPECT_EQ(glm.pairing, nn::RotaryPairing::interleaved);
  EXPECT_EQ(glm.rotary_dim(), 8);
  EXPECT_TRUE(with("glm4", {}).norms_after);
  EXPECT_TRUE(with("llama", {{"attention_bias", true}}).output_bias);
  EXPECT_EQ(with("mistral", {}).num_key_value_heads, 2);
}

TEST(LlamaConfig, TakesTheDefaultsOfTheModelType) {
  ordered_json json = config_of("qwen3");
  json.erase("num_key_value_heads");
  json["num_attention_heads"] = 32;
  const LlamaConfig qwen3 = LlamaConfig::from_json(json);
  EXPECT_EQ(qwen3.num_key_value_heads, 32);
  EXPECT_EQ(qwen3.head_dim, 128);
  json["model_type"] = "llama";
  EXPECT_EQ(LlamaConfig::from_json(json).num_key_value_heads, 32);
  EXPECT_EQ(LlamaConfig::from_json(json).head_dim, 2);
  EXPECT_EQ(with("glm", {{"head_dim", 16}}).rope.partial, 0.5);
  EXPECT_EQ(with("llama", {}).rope.theta, 10000.0);
  EXPECT_EQ(with("qwen2", {{"num_key_value_heads", nullptr}}).num_key_value_heads, 4) << "null: as many as heads";
}

TEST(LlamaConfig, ReadsRotaryPositionsInBothSpellings) {
  const ordered_json scaling{{"rope_type", "llama3"},   {"factor", 8.0},     {"low_freq_factor", 1.0},
                             {"high_freq_factor", 4.0}, {"rope_theta", 5e5}, {"original_max_position_embeddings", 64}};
  const LlamaConfig newer = with("llama", {{"rope_parameters", scaling}});
  ordered_json older_scaling = scaling;
  older_scaling.erase("rope_theta");
  older_scaling.erase("rope_type");
  older_scaling["type"] = "llama3";
  const LlamaConfig older = with("llama", {{"rope_theta", 5e5}, {"rope_scaling", older_scaling}});
  EXPECT_EQ(newer.to_json(), older.to_json());
  EXPECT_EQ(newer.rope.theta, 5e5);
  EXPECT_EQ(with("llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}).rope.factor, 2.0);
  EXPECT_EQ(with("llama", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}}).longest_sequence(), 256);
  const LlamaConfig yarn =
      with("qwen2", {{"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32}}}});
  EXPECT_EQ(yarn.rope.original_max_position_embeddings, 32);
  EXPECT_EQ(yarn.longest_sequence(), 128);
  EXPECT_EQ(with("qwen2", {{"max_position_embeddings", 32}, {"rope_scaling", {{"type", "yarn"}, {"factor", 4.0}}}})
                .longest_sequence(),
            128)
      << "a length that yarn stretches";
}

TEST(LlamaConfig, WritesWhatItReads) {
  for (const char* fixture : {"qwen2-tiny", "qwen3-tiny", "llama3-tiny", "glm-tiny"}) {
    const LlamaConfig config =
        LlamaConfig::from_json(io::read_json_file(testing::fixtures() / fixture / "config.json"));
    EXPECT_EQ(LlamaConfig::from_json(config.to_json()).to_json(), config.to_json()) << fixture;
  }
  const LlamaConfig yarn = with("qwen2", {{"rope_scaling",
                                           {{"type", "yarn"},
                                            {"factor", 4.0},
                                            {"attention_factor", 1.5},
                                            {"mscale", 0.5},
                                            {"mscale_all_dim", 0.25},
                                            {"truncate", false},
                                            {"original_max_position_embeddings", 32}}},
                                          {"eos_token_id", {3, 4}},
                                          {"bos_token_id", 5}});
  EXPECT_EQ(LlamaConfig::from_json(yarn.to_json()).to_json(), yarn.to_json());
  EXPECT_EQ(yarn.to_json()["rope_scaling"]["attention_factor"], 1.5);
}

TEST(LlamaConfig, NamesEverySettingThatWouldChangeTheNumbers) {
  const std::vector<std::tuple<const char*, ordered_json, const char*>> cases{
      {"llama", {{"hidden_act", "gelu"}}, "hidden_act"},
      {"llama", {{"pretraining_tp", 2}}, "pretraining_tp"},
      {"llama", {{"quantization_config", {{"bits", 4}}}}, "quantization_config"},
      {"llama", {{"rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}}}, "longrope"},
      {"llama", {{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling.factor"},
      {"llama", {{"rope_parameters", {{"rope_type", "default"}, {"mrope_section", {1, 2}}}}}, "mrope_section"},
      {"llama", {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}}, "each type of layer"},
      {"llama", {{"rope_interleaved", true}}, "rope_interleaved"},
      {"llama", {{"logit_scale", 0.5}}, "logit_scale"},
      {"llama", {{"final_logit_softcapping", 30.0}}, "final_logit_softcapping"},
      {"llama", {{"attention_multiplier", 0.5}}, "attention_multiplier"},
      {"llama", {{"residual_multiplier", 0.2}}, "residual_multiplier"},
      {"llama", {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor"},
      {"llama", {{"attention_dropout", 0.1}}, "attention_dropout"},
      {"llama", {{"sliding_window", 16}}, "sliding_window"},
      {"llama", {{"num_local_experts", 8}}, "num_local_experts"},
      {"mistral", {{"sliding_window", 16}}, "sliding_window"},
      {"mistral", {{"attention_bias", true}}, "attention_bias"},
      {"qwen2", {{"use_sliding_window", true}, {"sliding_window", 16}, {"max_window_layers", 1}}, "sliding_window"},
      {"qwen2", {{"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_attention"},
      {"qwen2", {{"mlp_bias", true}}, "mlp_bias"},
      {"qwen3", {{"head_dim", 7}}, "head_dim"},
      {"llama", {{"num_key_value_heads", 3}}, "num_key_value_heads"},
      {"llama", {{"vocab_size", 0}}, "vocab_size"},
      {"llama", {{"vocab_size", std::int64_t{1} << 40}}, "vocab_size"},
      {"llama", {{"hidden_size", nullptr}}, "hidden_size: is missing"},
      {"llama", {{"num_hidden_layers", 100000}}, "num_hidden_layers"},
      {"mixtral", {}, "mixtral"},
      {"llama", {{"is_causal", false}}, "is_causal"},
      {"llama", {{"transformers_weights", "other.safetensors"}}, "transformers_weights"},
      {"llama", {{"hidden_act", ""}}, "hidden_act"},
      {"llama", {{"attention_bias", nullptr}}, "attention_bias: is null"},
      {"glm", {{"partial_rotary_factor", nullptr}}, "partial_rotary_factor: is null"},
      {"llama",
       {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 4.0}, {"rope_theta", 100.0}, {"truncate", nullptr}}}},
       "rope_parameters.truncate: is null"},
      // A dynamic rotation takes sequences that are longer than max_position_embeddings.
      {"mistral",
       {{"max_position_embeddings", 16},
        {"sliding_window", 16},
        {"rope_scaling", {{"type", "dynamic"}, {"factor", 3.0}}}},
       "sliding_window"},
  };
  for (const auto& [type, changes, named] : cases) {
    const std::string error = error_of(type, changes);
    EXPECT_NE(error.find(named), std::string::npos) << type << " " << changes.dump() << ": " << error;
  }
  ordered_json two{{"hidden_act", "gelu"}, {"pretraining_tp", 2}};
  const std::string both = error_of("llama", two);
  EXPECT_TRUE(both.find("hidden_act") != both.npos && both.find("pretraining_tp") != both.npos) << both;
}

TEST(LlamaConfig, AcceptsWhatChangesNoNumber) {
  const LlamaConfig plain = with("llama", {});
  const ordered_json harmless{{"_name_or_path", "x"},
                              {"architectures", {"LlamaForCausalLM"}},
                              {"transformers_version", "4.40"},
                              {"initializer_range", 0.5},
                              {"pretraining_tp", 1},
                              {"rope_interleaved", false},
                              {"use_mrope", false},
                              {"quantization_config", nullptr},
                              {"final_logit_softcapping", nullptr},
                              {"hidden_act", "swish"},
                              {"some_remark", "of its authors"},
                              {"layer_types", {"full_attention", "full_attention"}}};
  EXPECT_EQ(with("llama", harmless).to_json(), plain.to_json());
  EXPECT_NO_THROW(with("qwen2", {{"use_sliding_window", false}, {"sliding_window", 16}}));
  EXPECT_NO_THROW(with("qwen2", {{"use_sliding_window", true}, {"sliding_window", 16}})) << "from layer 28 on";
  EXPECT_NO_THROW(with("mistral", {{"sliding_window", 128}})) << "no sequence is longer";
  EXPECT_NO_THROW(with("mistral", {{"sliding_window", 4096}}));
}

TEST(LlamaFamily, IsFoundByTheModelType) {
  EXPECT_EQ(read_config(config_of("mistral")).family, llama_family());
  EXPECT_EQ(read_config(config_of("glm")).config->summary().front().second, "GLM-4");
}

TEST(LlamaFamily, MakesAGraphForTheLinearsOfAnAdapter) {
  const auto config = llama_family()->config_of_linears({{"model.layers.1.self_attn.q_proj", 64, 128},
                                                         {"model.layers.0.self_attn.k_proj", 64, 32},
                                                         {"model.layers.0.mlp.down_proj", 160, 64}});
  ASSERT_NE(config, nullptr);
  const auto expected = config->expected_tensors().tensors;
  const auto shape_of = [&](const std::string& name) {
    for (const auto& [tensor, shape] : expected) {
      if (tensor == name) {
        return shape;
      }
    }
    return std::vector<std::int64_t>{};
  };
  EXPECT_EQ(shape_of("model.layers.1.self_attn.q_proj.weight"), (std::vector<std::int64_t>{128, 64}));
  EXPECT_EQ(shape_of("model.layers.0.self_attn.v_proj.weight"), (std::vector<std::int64_t>{32, 64}));
  EXPECT_EQ(shape_of("model.layers.1.mlp.gate_proj.weight"), (std::vector<std::int64_t>{160, 64}));
  const auto fused = llama_family()->config_of_linears({{"model.layers.0.mlp.gate_up_proj", 64, 320}});
  ASSERT_NE(fused, nullptr);
  EXPECT_EQ(llama_family()->config_of_linears({{"model.layers.0.attention.wqkv", 64, 320}}), nullptr);
}

}  // namespace
}  // namespace moelora::model
