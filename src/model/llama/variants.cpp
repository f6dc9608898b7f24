#include "model/llama/variants.h"

#include <algorithm>
#include <iterator>
#include <string>

namespace moelora::model {
namespace {

using Bias = LlamaVariant::Bias;
using Window = LlamaVariant::Window;

constexpr LlamaVariant kGlm = {.model_type = "glm",
                               .title = "GLM-4",
                               .architecture = "GlmForCausalLM",
                               .attention_bias = Bias::by_key,
                               .default_attention_bias = true,
                               .fused_gate_up = true,
                               .pairing = nn::RotaryPairing::interleaved,
                               .partial_rotary = true,
                               .default_partial = 0.5,
                               .default_kv_heads = 2,
                               .default_head_dim = 128,
                               .default_max_positions = 131072,
                               .default_epsilon = 1.5625e-7};

/// The next generation of a model type, which also norms what attention and the MLP give.
constexpr LlamaVariant with_norms_after(LlamaVariant variant, const char* model_type, const char* title,
                                        const char* architecture) {
  variant.model_type = model_type;
  variant.title = title;
  variant.architecture = architecture;
  variant.norms_after = true;
  return variant;
}

constexpr LlamaVariant kVariants[] = {
    {.model_type = "llama",
     .title = "Llama",
     .architecture = "LlamaForCausalLM",
     .attention_bias = Bias::by_key,
     .bias_of_output = true,
     .mlp_bias = true,
     .default_max_positions = 2048},
    {.model_type = "mistral",
     .title = "Mistral",
     .architecture = "MistralForCausalLM",
     .window = Window::all,
     .default_kv_heads = 8,
     .default_max_positions = 131072},
    {.model_type = "qwen2",
     .title = "Qwen2",
     .architecture = "Qwen2ForCausalLM",
     .attention_bias = Bias::always,
     .window = Window::by_layer,
     .default_kv_heads = 32,
     .default_max_positions = 32768},
    {.model_type = "qwen3",
     .title = "Qwen3",
     .architecture = "Qwen3ForCausalLM",
     .attention_bias = Bias::by_key,
     .bias_of_output = true,
     .query_key_norm = true,
     .window = Window::by_layer,
     .default_kv_heads = 32,
     .default_head_dim = 128,
     .default_max_positions = 32768},
    kGlm,
    with_norms_after(kGlm, "glm4", "GLM-4-0414", "Glm4ForCausalLM"),
};

}  // namespace

const LlamaVariant* find_llama_variant(const std::string& model_type) {
  const auto* found = std::find_if(std::begin(kVariants), std::end(kVariants),
                                   [&](const LlamaVariant& one) { return model_type == one.model_type; });
  return found == std::end(kVariants) ? nullptr : found;
}

std::string llama_model_types() {
  std::string text;
  for (const LlamaVariant& one : kVariants) {
    text += (text.empty() ? "" : ", ") + std::string(one.model_type);
  }
  return text;
}

void apply_llama_variant(const LlamaVariant& variant, LlamaConfig& config) {
  config.model_type = variant.model_type;
  config.pairing = variant.pairing;
  config.query_key_norm = variant.query_key_norm;
  config.fused_gate_up = variant.fused_gate_up;
  config.norms_after = variant.norms_after;
  config.rms_norm_eps = variant.default_epsilon;
  config.max_position_embeddings = variant.default_max_positions;
  config.rope.partial = variant.default_partial;
  config.attention_bias = variant.attention_bias == Bias::always ||
                          (variant.attention_bias == Bias::by_key && variant.default_attention_bias);
  config.output_bias = config.attention_bias && variant.bias_of_output;
}

}  // namespace moelora::model
