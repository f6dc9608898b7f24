#include "moelora/model/llama/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <regex>

#include "model/llama/gguf.h"
#include "model/llama/variants.h"
#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/model/hf_tokenizer.h"
#include "moelora/model/llama/llama.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class LlamaModelConfig : public ModelConfig {
 public:
  explicit LlamaModelConfig(const LlamaConfig& config) : config_(config) {}

  ExpectedTensors expected_tensors() const override { return model::expected_tensors(config_); }
  std::shared_ptr<CausalLM> make(const TensorSource& source) const override { return Llama(config_, source).ptr(); }
  std::int64_t num_layers() const override { return config_.num_hidden_layers; }
  SpecialTokens special_tokens() const override {
    return {config_.bos_token_id, config_.eos_token_ids.empty() ? -1 : config_.eos_token_ids.front(),
            config_.pad_token_id};
  }
  at::ScalarType declared_dtype() const override {
    const auto dtype = io::dtype_of_name(config_.dtype);
    MOELORA_CHECK(dtype, "torch_dtype: expected float32, float16 or bfloat16, found '", config_.dtype, "'");
    return *dtype;
  }
  ordered_json to_json(at::ScalarType stored) const override {
    LlamaConfig config = config_;
    config.dtype = io::dtype_name(stored);
    return config.to_json();
  }
  std::vector<std::pair<std::string, std::string>> summary() const override {
    return {{"architecture", config_.title()},
            {"layers", std::to_string(config_.num_hidden_layers)},
            {"hidden size", detail::concat(config_.hidden_size, ", inner ", config_.intermediate_size, ", ",
                                           config_.num_attention_heads, " heads of ", config_.head_dim, " over ",
                                           config_.num_key_value_heads, " of keys and values")},
            {"vocabulary", io::with_commas(config_.vocab_size) + (config_.tie_word_embeddings ? ", tied head" : "")},
            {"longest sequence", std::to_string(config_.longest_sequence())}};
  }
  std::optional<io::GgufLayout> gguf_layout() const override { return model::gguf_layout(config_); }

 private:
  LlamaConfig config_;
};

/// The shape of a model whose linears these are by name; nothing if there are others among them.
std::optional<LlamaConfig> config_with(const std::vector<LinearShape>& linears) {
  constexpr std::int64_t kMostLayers = 1000;  // made of nothing but names, so a number in a name must not cost memory
  static const std::regex block(
      R"((?:model\.)+layers\.(\d{1,4})\.(self_attn\.[qkvo]_proj|mlp\.(?:gate|up|gate_up|down)_proj))");
  static const std::regex head(R"((?:model\.)*lm_head)");
  LlamaConfig config;
  std::int64_t queries = 0;
  std::int64_t keys = 0;
  bool separate = false;
  config.hidden_size = config.intermediate_size = config.vocab_size = config.num_hidden_layers = 0;
  for (const LinearShape& linear : linears) {
    std::smatch parts;
    if (std::regex_match(linear.name, head)) {
      config.hidden_size = linear.in_features;
      config.vocab_size = linear.out_features;
      continue;
    }
    if (!std::regex_match(linear.name, parts, block)) {
      return std::nullopt;
    }
    config.num_hidden_layers = std::max<std::int64_t>(config.num_hidden_layers, std::stoll(parts[1]) + 1);
    const std::string kind = parts[2];
    const bool out_of_block = kind == "self_attn.o_proj" || kind == "mlp.down_proj";
    config.hidden_size = out_of_block ? linear.out_features : linear.in_features;
    const std::int64_t other = out_of_block ? linear.in_features : linear.out_features;
    if (kind == "self_attn.q_proj" || kind == "self_attn.o_proj") {
      queries = other;
    } else if (kind.starts_with("self_attn")) {
      keys = other;
    } else if (kind == "mlp.gate_up_proj") {
      config.fused_gate_up = true;
      config.intermediate_size = other / 2;
    } else {
      separate = separate || !out_of_block;
      config.intermediate_size = other;
    }
  }
  if (config.num_hidden_layers == 0 || config.num_hidden_layers > kMostLayers || (separate && config.fused_gate_up)) {
    return std::nullopt;
  }
  if (config.fused_gate_up) {
    apply_llama_variant(*find_llama_variant("glm"), config);
  }
  queries = queries > 0 ? queries : std::max(config.hidden_size, keys);
  keys = keys > 0 ? keys : queries;
  config.head_dim = std::gcd(queries, keys);  // of one head or of several: linears don't say
  config.num_attention_heads = queries / config.head_dim;
  config.num_key_value_heads = keys / config.head_dim;
  config.vocab_size = std::max<std::int64_t>(1, config.vocab_size);
  config.intermediate_size = config.intermediate_size > 0 ? config.intermediate_size : 4 * config.hidden_size;
  return config;
}

class LlamaFamily : public Family {
 public:
  FamilyTitle title() const override {
    return {"the Llama kind", "Llama, Mistral, Qwen2, Qwen3, GLM-4", "model_type, hidden_size, num_hidden_layers"};
  }
  bool recognises(const ordered_json& config) const override {
    const auto type = config.find("model_type");
    return type != config.end() && type->is_string() && LlamaConfig::knows(type->get<std::string>());
  }
  std::shared_ptr<const ModelConfig> read_config(const ordered_json& config) const override {
    return as_model_config(LlamaConfig::from_json(config));
  }
  std::shared_ptr<const ModelConfig> config_of_linears(const std::vector<LinearShape>& linears) const override {
    const auto config = config_with(linears);
    return config ? as_model_config(*config) : nullptr;
  }

  std::string tokenizer_file() const override { return HfTokenizer::kFile; }
  bool holds_tokenizer(const fs::path& path) const override { return HfTokenizer::is_at(path); }
  std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path, const ordered_json& settings) const override {
    return std::make_unique<HfTokenizer>(path, settings);
  }
  std::vector<std::string> tokenizer_settings() const override { return HfTokenizer::setting_names(); }

  std::string other_model_of_names(const std::vector<std::string>& names) const override;
};

/// By parts of dotted names, as far as they are no linears of this kind.
std::string LlamaFamily::other_model_of_names(const std::vector<std::string>& names) const {
  struct Trait {
    std::string_view part;
    const char* model;
  };
  static constexpr Trait kTraits[] = {
      {".block_sparse_moe.", "Mixtral, a mixture of experts"},
      {".mlp.experts.", "a mixture of experts"},
      {".kv_a_proj_with_mqa.", "DeepSeek with latent attention"},
      {".pre_feedforward_layernorm.", "Gemma 2 or 3"},
      {".self_attn.qkv_proj.", "Phi-3"},
  };
  for (const Trait& trait : kTraits) {
    const bool fits = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      return ("." + name + ".").find(trait.part) != std::string::npos;
    });
    if (fits) {
      return trait.model;
    }
  }
  return "";
}

}  // namespace

std::shared_ptr<const Family> llama_family() {
  static const auto family = std::make_shared<const LlamaFamily>();
  return family;
}

std::shared_ptr<const ModelConfig> as_model_config(const LlamaConfig& config) {
  return std::make_shared<const LlamaModelConfig>(config);
}

}  // namespace moelora::model
