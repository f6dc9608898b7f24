#include "moelora/model/llama/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "model/llama/config_keys.h"
#include "model/llama/rope_config.h"
#include "model/llama/variants.h"
#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"

namespace moelora::model {
namespace {

using nlohmann::ordered_json;

// Far beyond any model of this kind: what is larger is a damaged or hostile file, and sums and products of such sizes
// still fit into 64 bits.
constexpr std::int64_t kLargest = std::int64_t{1} << 32;
constexpr std::int64_t kMostLayers = 4096;
constexpr double kMostParameters = 1e15;

/// null means absent to the reference, but for a few keys; JsonReader wants values.
ordered_json without_nulls(const ordered_json& json) {
  ordered_json kept = ordered_json::object();
  for (const auto& [key, value] : json.items()) {
    if (!value.is_null()) {
      kept[key] = value.is_object() ? without_nulls(value) : value;
    }
  }
  return kept;
}

/// One config.json on its way into a LlamaConfig.
class ConfigReading {
 public:
  ConfigReading(const ordered_json& json, const LlamaVariant& variant)
      : given_(json), json_(without_nulls(json)), variant_(variant), reader_(json_) {
    apply_llama_variant(variant, config_);
  }

  LlamaConfig read() {
    read_sizes();
    read_biases();
    read_tokens();
    read_llama_rope(json_, variant_.partial_rotary, config_, reader_, read_);
    read_window();
    refuse_nulls();
    check_other_keys(json_, read_, reader_);
    check_sizes();
    reader_.finish();
    return std::move(config_);
  }

 private:
  bool null_is_given(const char* key) const { return given_.contains(key) && given_[key].is_null(); }
  template <typename T>
  bool optional(const char* key, T& value) {
    read_.emplace_back(key);
    return reader_.read(key, value);
  }
  void required(const char* key, std::int64_t& value) {
    if (!optional(key, value) && !json_.contains(key)) {
      reader_.problem(key, "is missing");
    }
  }

  void read_sizes() {
    std::string model_type;
    optional("model_type", model_type);
    required("vocab_size", config_.vocab_size);
    required("hidden_size", config_.hidden_size);
    required("intermediate_size", config_.intermediate_size);
    required("num_hidden_layers", config_.num_hidden_layers);
    required("num_attention_heads", config_.num_attention_heads);
    const std::int64_t heads = config_.num_attention_heads;
    config_.num_key_value_heads =
        variant_.default_kv_heads == 0 || null_is_given("num_key_value_heads") ? heads : variant_.default_kv_heads;
    optional("num_key_value_heads", config_.num_key_value_heads);
    const bool derived = variant_.default_head_dim == 0 || null_is_given("head_dim");
    config_.head_dim = derived ? config_.hidden_size / std::max<std::int64_t>(heads, 1) : variant_.default_head_dim;
    if (!optional("head_dim", config_.head_dim) && derived && heads > 0 && config_.hidden_size % heads != 0) {
      reader_.problem("hidden_size", "is no multiple of num_attention_heads, and head_dim is not given");
    }
    optional("max_position_embeddings", config_.max_position_embeddings);
    optional("rms_norm_eps", config_.rms_norm_eps);
    optional("tie_word_embeddings", config_.tie_word_embeddings);
    optional("torch_dtype", config_.dtype);
    optional("dtype", config_.dtype);
    if (config_.dtype.starts_with("torch.")) {
      config_.dtype.erase(0, 6);
    }
    if (!std::isfinite(config_.rms_norm_eps) || config_.rms_norm_eps < 0.0) {
      reader_.problem("rms_norm_eps", "must be a finite number of at least 0");
    }
  }

  void read_biases() {
    using Bias = LlamaVariant::Bias;
    const bool fixed = config_.attention_bias;
    optional("attention_bias", config_.attention_bias);
    if (variant_.attention_bias != Bias::by_key && config_.attention_bias != fixed) {
      reader_.problem("attention_bias", std::string("models of type ") + variant_.model_type + " have " +
                                            (fixed ? "biases on q_proj, k_proj and v_proj" : "no such biases"));
    }
    config_.output_bias = config_.attention_bias && variant_.bias_of_output;
    optional("mlp_bias", config_.mlp_bias);
    if (config_.mlp_bias && !variant_.mlp_bias) {
      reader_.problem("mlp_bias", std::string("models of type ") + variant_.model_type + " have no such biases");
    }
  }

  /// Of these, null is not what an absent key is to the reference.
  void refuse_nulls() {
    for (const char* key : {"partial_rotary_factor", "attention_bias", "mlp_bias", "hidden_act", "is_causal"}) {
      if (null_is_given(key)) {
        reader_.problem(key, "is null; give a value, or take the key out of config.json");
      }
    }
    for (const char* section : {"rope_parameters", "rope_scaling"}) {
      const auto found = given_.find(section);
      for (const char* key : {"truncate", "partial_rotary_factor"}) {
        if (found != given_.end() && found->is_object() && found->contains(key) && (*found)[key].is_null()) {
          reader_.problem(std::string(section) + "." + key,
                          "is null; give a value, or take the key out of config.json");
        }
      }
    }
  }

  /// Error where a row would not see all rows before it.
  void read_window() {
    std::vector<std::string> layer_types;
    std::int64_t window = 4096;
    bool use = false;
    std::int64_t full_layers = 28;
    const bool types_given = optional("layer_types", layer_types);
    const bool given = optional("sliding_window", window);
    optional("use_sliding_window", use);
    optional("max_window_layers", full_layers);
    for (const std::string& type : layer_types) {
      if (type != "full_attention") {
        reader_.problem("layer_types", "holds \"" + type + "\", which is not implemented; expected full_attention");
        return;
      }
    }
    const std::int64_t longest = config_.longest_sequence();
    const bool limits = window < longest;
    bool in_effect = false;
    switch (variant_.window) {
      case LlamaVariant::Window::unknown:
        in_effect = given && limits;
        break;
      case LlamaVariant::Window::by_layer:
        in_effect = use && !types_given && !null_is_given("sliding_window") && limits &&
                    full_layers < config_.num_hidden_layers;
        break;
      case LlamaVariant::Window::all:
        in_effect = !null_is_given("sliding_window") && limits;
        break;
    }
    if (in_effect) {
      reader_.problem("sliding_window", "is " + std::to_string(window) + (given ? "" : " where the key is absent") +
                                            ", below the longest sequence of " + std::to_string(longest) +
                                            ": attention over a sliding window is not implemented");
    }
  }

  void read_tokens() {
    optional("bos_token_id", config_.bos_token_id);
    optional("pad_token_id", config_.pad_token_id);
    read_.emplace_back("eos_token_id");
    if (const auto eos = json_.find("eos_token_id"); eos != json_.end() && eos->is_array()) {
      reader_.read("eos_token_id", config_.eos_token_ids);
    } else if (std::int64_t id = -1; reader_.read("eos_token_id", id)) {
      config_.eos_token_ids = {id};
    }
  }

  void check_sizes() {
    bool good = true;
    for (const auto& [name, value] : {std::pair<const char*, std::int64_t>{"vocab_size", config_.vocab_size},
                                      {"hidden_size", config_.hidden_size},
                                      {"intermediate_size", config_.intermediate_size},
                                      {"num_hidden_layers", config_.num_hidden_layers},
                                      {"num_attention_heads", config_.num_attention_heads},
                                      {"num_key_value_heads", config_.num_key_value_heads},
                                      {"head_dim", config_.head_dim},
                                      {"max_position_embeddings", config_.max_position_embeddings}}) {
      if (value < 1 || value > kLargest) {
        reader_.problem(
            name, "is " + std::to_string(value) + ", expected a positive size of at most " + std::to_string(kLargest));
        good = false;
      }
    }
    if (config_.num_hidden_layers > kMostLayers) {
      reader_.problem("num_hidden_layers", "is " + std::to_string(config_.num_hidden_layers) + ", expected at most " +
                                               std::to_string(kMostLayers));
      good = false;
    }
    if (!good) {
      return;
    }
    // As floating-point numbers, because this is where a product's overflow is found.
    const auto h = static_cast<double>(config_.hidden_size);
    const double attended = static_cast<double>(config_.num_attention_heads + config_.num_key_value_heads) *
                            static_cast<double>(config_.head_dim);
    const double parameters = 2.0 * static_cast<double>(config_.vocab_size) * h +
                              static_cast<double>(config_.num_hidden_layers) * h *
                                  (2.0 * attended + 3.0 * static_cast<double>(config_.intermediate_size));
    if (!(parameters <= kMostParameters)) {
      reader_.problem(
          detail::concat("its sizes describe ", parameters, " parameters, expected at most ", kMostParameters));
    }
    if (config_.num_attention_heads % config_.num_key_value_heads != 0) {
      reader_.problem("num_key_value_heads", "is " + std::to_string(config_.num_key_value_heads) +
                                                 ", expected a divisor of num_attention_heads " +
                                                 std::to_string(config_.num_attention_heads));
    }
    if (config_.rotary_dim() > config_.head_dim || config_.rotary_dim() < 2) {
      reader_.problem("head_dim", "is " + std::to_string(config_.head_dim) + ", expected pairs of columns to turn");
    }
  }

  const ordered_json& given_;
  ordered_json json_;
  const LlamaVariant& variant_;
  io::JsonReader reader_;
  LlamaConfig config_;
  std::vector<std::string> read_;
};

}  // namespace

std::int64_t LlamaConfig::rotary_dim() const {
  const auto share = static_cast<std::int64_t>(static_cast<double>(head_dim) * rope.partial);
  return (share + 1) / 2 * 2;
}

std::int64_t LlamaConfig::longest_sequence() const {
  double stretched = static_cast<double>(max_position_embeddings);
  if (rope.type == LlamaRope::Type::dynamic) {
    stretched *= rope.factor;
  } else if (rope.type == LlamaRope::Type::yarn) {
    stretched = std::max(stretched, static_cast<double>(rope.original_max_position_embeddings) * rope.factor);
  }
  return stretched < static_cast<double>(kLargest) ? static_cast<std::int64_t>(stretched) : kLargest;
}

bool LlamaConfig::knows(const std::string& model_type) { return find_llama_variant(model_type) != nullptr; }

const char* LlamaConfig::title() const { return find_llama_variant(model_type)->title; }

LlamaConfig LlamaConfig::from_json(const ordered_json& json) {
  if (!json.is_object()) {
    throw Error("the model configuration must be a JSON object");
  }
  const auto type = json.find("model_type");
  const std::string name = type != json.end() && type->is_string() ? type->get<std::string>() : std::string();
  const LlamaVariant* variant = find_llama_variant(name);
  MOELORA_CHECK(variant != nullptr, "model_type is \"", name, "\", expected one of ", llama_model_types());
  return ConfigReading(json, *variant).read();
}

ordered_json LlamaConfig::to_json() const {
  const LlamaVariant& variant = *find_llama_variant(model_type);
  ordered_json json{{"architectures", {variant.architecture}}};
  if (variant.attention_bias == LlamaVariant::Bias::by_key) {
    json["attention_bias"] = attention_bias;
  }
  const auto id_or_null = [](std::int64_t id) { return id < 0 ? ordered_json() : ordered_json(id); };
  json["attention_dropout"] = 0.0;
  json["bos_token_id"] = id_or_null(bos_token_id);
  json["eos_token_id"] = eos_token_ids.size() == 1 ? ordered_json(eos_token_ids.front())
                         : eos_token_ids.empty()   ? ordered_json()
                                                   : ordered_json(eos_token_ids);
  json["head_dim"] = head_dim;
  json["hidden_act"] = "silu";
  json["hidden_size"] = hidden_size;
  json["initializer_range"] = 0.02;
  json["intermediate_size"] = intermediate_size;
  json["max_position_embeddings"] = max_position_embeddings;
  if (variant.mlp_bias) {
    json["mlp_bias"] = mlp_bias;
  }
  json["model_type"] = model_type;
  json["num_attention_heads"] = num_attention_heads;
  json["num_hidden_layers"] = num_hidden_layers;
  json["num_key_value_heads"] = num_key_value_heads;
  json["pad_token_id"] = id_or_null(pad_token_id);
  json["rms_norm_eps"] = rms_norm_eps;
  write_llama_rope(*this, variant.partial_rotary, json);
  if (variant.window != LlamaVariant::Window::unknown) {
    json["sliding_window"] = nullptr;
  }
  if (variant.window == LlamaVariant::Window::by_layer) {
    json["use_sliding_window"] = false;
  }
  json["tie_word_embeddings"] = tie_word_embeddings;
  json["torch_dtype"] = dtype;
  json["use_cache"] = true;
  json["vocab_size"] = vocab_size;
  return json;
}

}  // namespace moelora::model
