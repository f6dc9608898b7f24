#include "moelora/model/chatglm/config.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "moelora/io/error.h"
#include "moelora/model/chatglm/other_families.h"

namespace moelora::model {
namespace {

// Far beyond any model of this kind: what is larger is a damaged or hostile file, and sums and products of such sizes
// still fit into 64 bits.
constexpr std::int64_t kLargest = std::int64_t{1} << 32;
constexpr std::int64_t kMostLayers = 4096;
constexpr double kMostParameters = 1e15;

}  // namespace

std::int64_t ChatGlmConfig::parameter_count(bool tied_head) const {
  const auto h = hidden_size;
  const auto block = (3 * h * h + 3 * h) + (h * h + h) + (h * inner_hidden_size + inner_hidden_size) +
                     (inner_hidden_size * h + h) + 4 * h;
  return (tied_head ? 1 : 2) * vocab_size * h + num_layers * block + 2 * h;
}

ChatGlmConfig ChatGlmConfig::from_json(const nlohmann::ordered_json& json) {
  ChatGlmConfig config;
  std::vector<std::string> problems;
  if (!json.is_object()) {
    throw Error("the model configuration must be a JSON object");
  }
  if (const std::string family = other_family_of_config(json); !family.empty()) {
    throw Error("this is the configuration of " + family + ", whose graph is another one; expected ChatGLM-6B's (the " +
                "first generation: vocab_size, inner_hidden_size, position_encoding_2d)");
  }
  const auto read = [&](const char* key, auto& value, bool required) {
    const auto found = json.find(key);
    if (found == json.end() || found->is_null()) {
      if (required) {
        problems.push_back(std::string(key) + " is missing");
      }
      return;
    }
    using T = std::decay_t<decltype(value)>;
    bool good = false;
    if constexpr (std::is_same_v<T, bool>) {
      good = found->is_boolean();
    } else if constexpr (std::is_same_v<T, std::int64_t>) {
      good = found->is_number_integer();
    } else if constexpr (std::is_same_v<T, double>) {
      good = found->is_number();
    } else {
      good = found->is_string();
    }
    if (good) {
      value = found->template get<T>();
    } else {
      const std::string text = found->dump();
      problems.push_back(std::string(key) + " has the wrong type: " +
                         (text.size() <= 100 ? text : std::string("a long ") + found->type_name()));
    }
  };
  std::string model_type = "chatglm";
  read("model_type", model_type, false);
  if (model_type != "chatglm") {
    problems.push_back("model_type is \"" + model_type + "\", expected \"chatglm\" (ChatGLM-6B)");
  }
  read("vocab_size", config.vocab_size, true);
  read("hidden_size", config.hidden_size, true);
  read("num_layers", config.num_layers, true);
  read("num_attention_heads", config.num_attention_heads, true);
  if (config.hidden_size > 0 && config.hidden_size <= kLargest) {  // otherwise a problem below
    config.inner_hidden_size = 4 * config.hidden_size;
  }
  read("inner_hidden_size", config.inner_hidden_size, false);
  read("max_sequence_length", config.max_sequence_length, false);
  read("layernorm_epsilon", config.layernorm_epsilon, false);
  read("bos_token_id", config.bos_token_id, true);
  read("eos_token_id", config.eos_token_id, true);
  // The first published revision names neither; both vocabularies put them four and three before <sop>.
  if (config.bos_token_id >= 0) {  // otherwise a problem below
    config.mask_token_id = config.bos_token_id - 4;
    config.gmask_token_id = config.bos_token_id - 3;
  }
  read("mask_token_id", config.mask_token_id, false);
  read("gmask_token_id", config.gmask_token_id, false);
  read("pad_token_id", config.pad_token_id, false);
  read("position_encoding_2d", config.position_encoding_2d, false);
  read("torch_dtype", config.torch_dtype, false);
  std::int64_t bits = 0;
  read("quantization_bit", bits, false);
  if (bits != 0) {
    problems.push_back("quantization_bit is " + std::to_string(bits) + ": quantised checkpoints are not supported");
  }
  std::int64_t prefix = 0;
  read("pre_seq_len", prefix, false);
  if (prefix != 0) {
    problems.push_back(
        "pre_seq_len is " + std::to_string(prefix) +
        ": a P-Tuning prefix is not part of a base model; take pre_seq_len and prefix_projection out of " +
        "config.json, and make an adapter of the prefix with `moelora import`");
  }
  if (!config.position_encoding_2d) {
    problems.push_back("position_encoding_2d is false: only two-dimensional positions are supported");
  }
  for (const auto& [name, value] : {std::pair<const char*, std::int64_t>{"vocab_size", config.vocab_size},
                                    {"hidden_size", config.hidden_size},
                                    {"num_layers", config.num_layers},
                                    {"num_attention_heads", config.num_attention_heads},
                                    {"inner_hidden_size", config.inner_hidden_size},
                                    {"max_sequence_length", config.max_sequence_length}}) {
    if (value < 1 || value > kLargest) {
      problems.push_back(std::string(name) + " is " + std::to_string(value) + ", expected a positive size of at most " +
                         std::to_string(kLargest));
    }
  }
  if (config.num_layers > kMostLayers) {
    problems.push_back("num_layers is " + std::to_string(config.num_layers) + ", expected at most " +
                       std::to_string(kMostLayers));
  }
  if (problems.empty()) {
    // As a floating-point number, because this is where the product's overflow is found.
    const auto h = static_cast<double>(config.hidden_size);
    const double parameters =
        2.0 * static_cast<double>(config.vocab_size) * h +
        static_cast<double>(config.num_layers) * h * (4.0 * h + 2.0 * static_cast<double>(config.inner_hidden_size));
    if (parameters > kMostParameters) {
      problems.push_back(detail::concat("vocab_size, hidden_size, inner_hidden_size and num_layers describe ",
                                        parameters, " parameters, expected at most ", kMostParameters));
    }
  }
  if (problems.empty() && (config.hidden_size % config.num_attention_heads != 0 || config.head_dim() % 4 != 0)) {
    problems.push_back("hidden_size " + std::to_string(config.hidden_size) + " over num_attention_heads " +
                       std::to_string(config.num_attention_heads) +
                       " must be a multiple of 4 (two rotary axes of pairs)");
  }
  for (const auto& [name, id] : {std::pair<const char*, std::int64_t>{"bos_token_id", config.bos_token_id},
                                 {"eos_token_id", config.eos_token_id},
                                 {"gmask_token_id", config.gmask_token_id},
                                 {"pad_token_id", config.pad_token_id}}) {
    if (id < 0 || id >= config.vocab_size) {
      problems.push_back(std::string(name) + " is " + std::to_string(id) + ", outside of the vocabulary of " +
                         std::to_string(config.vocab_size));
    }
  }
  if (!problems.empty()) {
    std::string text = "the model configuration has " + std::to_string(problems.size()) + " problem(s):";
    for (const std::string& problem : problems) {
      text += "\n  " + problem;
    }
    throw Error(text);
  }
  return config;
}

nlohmann::ordered_json ChatGlmConfig::to_json() const {
  return {{"architectures", {"ChatGLMModel"}},
          {"auto_map",
           {{"AutoConfig", "configuration_chatglm.ChatGLMConfig"},
            {"AutoModel", "modeling_chatglm.ChatGLMForConditionalGeneration"},
            {"AutoModelForSeq2SeqLM", "modeling_chatglm.ChatGLMForConditionalGeneration"}}},
          {"bos_token_id", bos_token_id},
          {"eos_token_id", eos_token_id},
          {"mask_token_id", mask_token_id},
          {"gmask_token_id", gmask_token_id},
          {"pad_token_id", pad_token_id},
          {"hidden_size", hidden_size},
          {"inner_hidden_size", inner_hidden_size},
          {"layernorm_epsilon", layernorm_epsilon},
          {"max_sequence_length", max_sequence_length},
          {"model_type", "chatglm"},
          {"num_attention_heads", num_attention_heads},
          {"num_layers", num_layers},
          {"position_encoding_2d", position_encoding_2d},
          {"torch_dtype", torch_dtype},
          {"use_cache", true},
          {"vocab_size", vocab_size}};
}

}  // namespace moelora::model
