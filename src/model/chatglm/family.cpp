#include "moelora/model/chatglm/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>

#include "moelora/io/dtype.h"
#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/model/chatglm/chatglm.h"
#include "moelora/model/chatglm/other_families.h"
#include "moelora/model/chatglm/rotary.h"
#include "moelora/model/chatglm/tokenizer.h"

namespace moelora::model {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

class ChatGlmModelConfig : public ModelConfig {
 public:
  explicit ChatGlmModelConfig(const ChatGlmConfig& config) : config_(config) {}

  ExpectedTensors expected_tensors() const override { return model::expected_tensors(config_); }
  std::shared_ptr<CausalLM> make(const TensorSource& source) const override { return ChatGlm(config_, source).ptr(); }
  std::int64_t num_layers() const override { return config_.num_layers; }
  SpecialTokens special_tokens() const override {
    return {config_.bos_token_id, config_.eos_token_id, config_.pad_token_id};
  }
  at::ScalarType declared_dtype() const override {
    const auto dtype = io::dtype_of_name(config_.torch_dtype);
    MOELORA_CHECK(dtype, "torch_dtype: expected float32, float16 or bfloat16, found '", config_.torch_dtype, "'");
    return *dtype;
  }
  ordered_json to_json(at::ScalarType stored) const override {
    ChatGlmConfig config = config_;
    config.torch_dtype = io::dtype_name(stored);
    return config.to_json();
  }
  std::vector<std::pair<std::string, std::string>> summary() const override {
    return {{"architecture", "ChatGLM-6B"},
            {"layers", std::to_string(config_.num_layers)},
            {"hidden size", detail::concat(config_.hidden_size, ", inner ", config_.inner_hidden_size, ", ",
                                           config_.num_attention_heads, " heads")},
            {"vocabulary", io::with_commas(config_.vocab_size)},
            {"longest sequence", std::to_string(config_.max_sequence_length)}};
  }

 private:
  ChatGlmConfig config_;
};

/// The shape of a model whose linears these are by name; nothing if there are others among them.
std::optional<ChatGlmConfig> config_with(const std::vector<LinearShape>& linears) {
  constexpr std::int64_t kMostLayers = 1000;  // made of nothing but names, so a number in a name must not cost memory
  static const std::regex block(
      R"((?:model\.)*transformer\.layers\.(\d{1,4})\.(attention\.query_key_value|attention\.dense|mlp\.dense_h_to_4h|mlp\.dense_4h_to_h))");
  static const std::regex head(R"((?:model\.)*lm_head)");
  ChatGlmConfig config;
  config.hidden_size = config.inner_hidden_size = config.vocab_size = 0;
  config.num_layers = 0;
  for (const LinearShape& linear : linears) {
    std::smatch parts;
    if (std::regex_match(linear.name, head)) {
      config.hidden_size = linear.in_features;
      config.vocab_size = linear.out_features;
    } else if (std::regex_match(linear.name, parts, block)) {
      config.num_layers = std::max<std::int64_t>(config.num_layers, std::stoll(parts[1]) + 1);
      const std::string kind = parts[2];
      config.hidden_size = kind == "mlp.dense_4h_to_h" ? linear.out_features : linear.in_features;
      if (kind.starts_with("mlp")) {
        config.inner_hidden_size = kind == "mlp.dense_4h_to_h" ? linear.in_features : linear.out_features;
      }
    } else {
      return std::nullopt;
    }
  }
  if (config.num_layers == 0 || config.num_layers > kMostLayers) {
    return std::nullopt;
  }
  config.vocab_size = std::max<std::int64_t>(1, config.vocab_size);
  config.inner_hidden_size = config.inner_hidden_size > 0 ? config.inner_hidden_size : 4 * config.hidden_size;
  return config;
}

class ChatGlmFamily : public Family {
 public:
  FamilyTitle title() const override {
    return {"ChatGLM-6B", "the first generation", "vocab_size, inner_hidden_size, position_encoding_2d"};
  }
  bool recognises(const ordered_json& config) const override {
    const auto type = config.find("model_type");
    if (type != config.end() && type->is_string()) {
      return *type == "chatglm";
    }
    // A configuration written by hand may leave it out.
    return config.contains("num_layers") || config.contains("inner_hidden_size") ||
           config.contains("position_encoding_2d");
  }
  std::shared_ptr<const ModelConfig> read_config(const ordered_json& config) const override {
    return as_model_config(ChatGlmConfig::from_json(config));
  }
  std::shared_ptr<const ModelConfig> default_config() const override { return as_model_config({}); }
  std::shared_ptr<const ModelConfig> config_of_linears(const std::vector<LinearShape>& linears) const override {
    const auto config = config_with(linears);
    return config ? as_model_config(*config) : nullptr;
  }

  std::string tokenizer_file() const override { return "ice_text.model"; }
  bool holds_tokenizer(const fs::path& path) const override {
    return fs::is_regular_file(path / tokenizer_file()) || (fs::is_regular_file(path) && path.extension() == ".model");
  }
  std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path, const ordered_json& settings) const override {
    return std::make_unique<ChatGlmTokenizer>(path, settings);
  }
  std::vector<std::string> tokenizer_settings() const override {
    return {"do_lower_case", "remove_space", "num_image_tokens", "linebreak", "whitespace", "dummy_prefix"};
  }

  std::optional<RotaryAxis> rotary_axis(const at::Tensor& positions, std::int64_t width,
                                        at::ScalarType dtype) const override {
    return RotaryAxis{chatglm_frequencies(width, positions.device()).to(dtype),
                      chatglm_rotary_axis(positions, width, dtype)};
  }

  std::string other_model_of_names(const std::vector<std::string>& names) const override {
    return other_family_of_names(names);
  }
  std::string other_model_of_config(const ordered_json& config) const override {
    return other_family_of_config(config);
  }
};

}  // namespace

std::shared_ptr<const Family> chatglm_family() {
  static const auto family = std::make_shared<const ChatGlmFamily>();
  return family;
}

std::shared_ptr<const ModelConfig> as_model_config(const ChatGlmConfig& config) {
  return std::make_shared<const ChatGlmModelConfig>(config);
}

}  // namespace moelora::model
