#include "model/llama/config_keys.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"

namespace moelora::model {
namespace {

using nlohmann::ordered_json;

// No key of these changes what the graph computes.
constexpr std::string_view kHarmless[] = {"_attn_implementation",
                                          "_attn_implementation_autoset",
                                          "_commit_hash",
                                          "_flash_attn_2_enabled",
                                          "_name_or_path",
                                          "architectures",
                                          "attn_implementation",
                                          "auto_map",
                                          "begin_suppress_tokens",
                                          "custom_pipelines",
                                          "decoder_start_token_id",
                                          "exponential_decay_length_penalty",
                                          "finetuning_task",
                                          "forced_bos_token_id",
                                          "forced_eos_token_id",
                                          "id2label",
                                          "initializer_range",
                                          "is_llama_config",
                                          "keys_to_ignore_at_inference",
                                          "label2id",
                                          "language",
                                          "length_penalty",
                                          "max_length",
                                          "max_window_layers",
                                          "min_length",
                                          "model_max_length",
                                          "num_beam_groups",
                                          "num_beams",
                                          "num_return_sequences",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_router_logits",
                                          "prefix",
                                          "problem_type",
                                          "pruned_heads",
                                          "repetition_penalty",
                                          "return_dict",
                                          "return_dict_in_generate",
                                          "sep_token_id",
                                          "suppress_tokens",
                                          "task_specific_params",
                                          "temperature",
                                          "tf_legacy_loss",
                                          "tokenizer_class",
                                          "top_k",
                                          "top_p",
                                          "torchscript",
                                          "transformers.js_config",
                                          "transformers_version",
                                          "typical_p",
                                          "unsloth_fixed",
                                          "unsloth_version",
                                          "unsloth_training_date",
                                          "use_bfloat16",
                                          "use_cache",
                                          "use_flash_attn",
                                          "do_sample",
                                          "diversity_penalty",
                                          "early_stopping",
                                          "encoder_no_repeat_ngram_size",
                                          "no_repeat_ngram_size",
                                          "remove_invalid_values",
                                          "output_scores",
                                          "bad_words_ids",
                                          "license",
                                          "datasets"};

// Settings of a graph by parts of their names: an unknown one with a value of its own would change numbers.
constexpr std::string_view kOfGraph[] = {"act",      "attn",    "attention", "bias",  "cap",   "conv",     "dropout",
                                         "embed",    "expert",  "head",      "layer", "logit", "mlp",      "moe",
                                         "mtp",      "multipl", "norm",      "nope",  "quant", "residual", "rope",
                                         "rotary",   "scal",    "skip",      "sink",  "ssm",   "tie",      "window",
                                         "position", "router",  "gate",      "mup",   "alibi", "mamba",    "clip"};

bool is_neutral(const ordered_json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) || (value.is_number() && value == 0) ||
         ((value.is_object() || value.is_array() || value.is_string()) &&
          (value.empty() || (value.is_string() && value.get_ref<const std::string&>().empty())));
}

bool is_of_graph(std::string key) {
  std::transform(key.begin(), key.end(), key.begin(), [](unsigned char c) { return std::tolower(c); });
  return std::any_of(std::begin(kOfGraph), std::end(kOfGraph),
                     [&](std::string_view part) { return key.find(part) != std::string::npos; });
}

std::string short_text(const ordered_json& value) {
  const std::string text = value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return text.size() <= 60 ? text : std::string(value.is_object() ? "an object" : "a long ") + value.type_name();
}

void warn_once(const std::string& keys) {
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::lock_guard lock(mutex);
  if (seen.insert(keys).second) {
    log::warning("config.json has keys that this library does not know and that look like no setting of the graph: " +
                 keys + "; they are left aside");
  }
}

}  // namespace

void check_other_keys(const ordered_json& json, const std::vector<std::string>& read, io::JsonReader& reader) {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.items()) {
    if (std::find(read.begin(), read.end(), key) != read.end()) {
      continue;
    }
    ordered_json ignored;
    reader.read(key, ignored);
    if (key == "hidden_act") {
      if (value != "silu" && value != "swish") {
        reader.problem(key, "is " + short_text(value) + ", expected \"silu\": no other activation is implemented");
      }
    } else if (key == "is_causal") {
      if (value != true) {
        reader.problem(key, "is " + short_text(value) + ", expected true: attention to later rows is not implemented");
      }
    } else if (key == "transformers_weights") {
      reader.problem(key, "is " + short_text(value) + ": weights of another name are not read; take it out of " +
                              "config.json if model.safetensors holds the same");
    } else if (is_neutral(value) || std::find(std::begin(kHarmless), std::end(kHarmless), key) != std::end(kHarmless)) {
      continue;
    } else if (key == "pretraining_tp") {
      if (value != 1) {
        reader.problem(key, "is " + short_text(value) + ": only 1 is implemented (sums are split and added in parts)");
      }
    } else if (key == "quantization_config") {
      reader.problem(key, "a quantised model; expected weights in float32, float16 or bfloat16: dequantise it first");
    } else if (key == "attention_dropout") {
      reader.problem(key, "is " + short_text(value) + ", expected 0: training would drop attention scores, " +
                              "which is not implemented");
    } else if (is_of_graph(key)) {
      reader.problem(key, "is " + short_text(value) + ": this setting of a graph is not implemented, and without it " +
                              "the model would compute other numbers; if it changes none, take it out of config.json");
    } else {
      unknown.push_back(key);
    }
  }
  if (!unknown.empty()) {
    warn_once(io::in_a_row(unknown, 8));
  }
}

}  // namespace moelora::model
