#include "moelora/model/chatglm/other_families.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace moelora::model {
namespace {

constexpr const char* kNextGenerations = "ChatGLM2-6B, ChatGLM3-6B or GLM-4-9B";

struct Trait {
  std::string_view part;     ///< Of a dotted name, with a dot before and behind.
  std::string_view another;  ///< Of the same name.
  const char* family;
};

// The first that fits any name wins.
constexpr Trait kTraits[] = {
    {".encoder.layers.", ".self_attention.", kNextGenerations},
    {".encoder.layers.", ".mlp.dense_", kNextGenerations},
    {".embedding.word_embeddings.", ".transformer.", kNextGenerations},
    {".output_layer.", ".transformer.", kNextGenerations},
    {".mlp.gate_up_proj.", ".layers.", "GLM-4 in the form of transformers, or Phi-3"},
    {".self_attn.q_proj.", ".layers.", "a model of the Llama kind (Llama, Qwen2, Qwen3, Mistral)"},
    {".self_attn.v_proj.", ".layers.", "a model of the Llama kind (Llama, Qwen2, Qwen3, Mistral)"},
    {".mlp.gate_proj.", ".layers.", "a model of the Llama kind (Llama, Qwen2, Qwen3, Mistral)"},
    {".self_attn.W_pack.", ".layers.", "Baichuan"},
    {".attention.wqkv.", ".layers.", "InternLM2"},
    {".attn.c_attn.", ".h.", "GPT-2 or the first Qwen"},
    {".self_attention.query_key_value.", ".h.", "BLOOM or Falcon"},
    {".attention.self.query.", ".layer.", "BERT"},
};

}  // namespace

std::string other_family_of_names(const std::vector<std::string>& names) {
  for (const Trait& trait : kTraits) {
    const bool fits = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      const std::string dotted = "." + name + ".";
      return dotted.find(trait.part) != std::string::npos && dotted.find(trait.another) != std::string::npos;
    });
    if (fits) {
      return trait.family;
    }
  }
  return "";
}

std::string other_family_of_config(const nlohmann::ordered_json& json) {
  if (!json.is_object()) {
    return "";
  }
  const auto text = [&](const char* key) {
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const std::string type = text("model_type");
  if (type == "glm" || type == "glm4") {
    return "GLM-4 in the form of transformers";
  }
  if (type == "glm4_moe") {
    return "GLM-4.5, a mixture of experts";
  }
  if (!type.empty() && type != "chatglm") {
    return "";  // its name says enough
  }
  // The second and later generations kept model_type "chatglm" and the architecture's name.
  for (const char* key : {"padded_vocab_size", "multi_query_attention", "ffn_hidden_size", "kv_channels", "rmsnorm"}) {
    if (json.contains(key)) {
      const auto size = json.find("padded_vocab_size");
      if (size != json.end() && *size == 65024) {
        return "ChatGLM2-6B or ChatGLM3-6B";
      }
      return size != json.end() && *size == 151552 ? "GLM-4-9B" : kNextGenerations;
    }
  }
  return "";
}

}  // namespace moelora::model
