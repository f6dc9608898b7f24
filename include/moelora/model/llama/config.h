#pragma once
// config.json of a decoder of the Llama kind. What its model types differ in is data: sizes, which linears have a bias,
// norms, how a head turns. Names, defaults and rules are those of the model classes of Hugging Face transformers 5.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moelora/model/model_shape.h"
#include "moelora/nn/rotary.h"

namespace moelora::model {

/// How positions turn the heads (`rope_parameters`; in older files `rope_theta` and `rope_scaling`).
struct LlamaRope {
  enum class Type {
    plain,    ///< "default": theta^(-2i/d)
    linear,   ///< frequencies over `factor`
    dynamic,  ///< theta grows with a sequence that is longer than max_position_embeddings ("dynamic NTK")
    llama3,   ///< slow pairs over `factor`, fast ones as they are, a ramp between (Llama 3.1)
    yarn      ///< the same by another ramp, and longer queries and keys (Peng et al. 2023, arXiv 2309.00071)
  };
  Type type = Type::plain;
  double theta = 10000.0;
  double partial = 1.0;  ///< Share of a head's columns that turn, the first ones.
  double factor = 1.0;
  double low_freq_factor = 1.0;                       ///< llama3
  double high_freq_factor = 4.0;                      ///< llama3
  std::int64_t original_max_position_embeddings = 0;  ///< llama3, yarn: of the training before
  std::optional<double> attention_factor;             ///< yarn: scales queries and keys; nothing: by `factor`
  double beta_fast = 32.0;                            ///< yarn
  double beta_slow = 1.0;                             ///< yarn
  double mscale = 0.0;                                ///< yarn; 0: not given
  double mscale_all_dim = 0.0;                        ///< yarn; 0: not given
  bool truncate = true;                               ///< yarn: the ramp's ends are whole numbers
};

struct LlamaConfig {
  std::string model_type = "llama";  ///< llama, mistral, qwen2, qwen3, glm or glm4
  std::int64_t vocab_size = 32000;
  std::int64_t hidden_size = 4096;
  std::int64_t intermediate_size = 11008;
  std::int64_t num_hidden_layers = 32;
  std::int64_t num_attention_heads = 32;
  std::int64_t num_key_value_heads = 32;
  std::int64_t head_dim = 128;  ///< need not be hidden_size / num_attention_heads
  std::int64_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  LlamaRope rope;
  nn::RotaryPairing pairing = nn::RotaryPairing::half;
  bool attention_bias = false;  ///< of q_proj, k_proj and v_proj
  bool output_bias = false;     ///< of o_proj
  bool mlp_bias = false;        ///< of the three linears of the MLP
  bool query_key_norm = false;  ///< an RMSNorm over each head of queries and keys, before they turn
  bool fused_gate_up = false;   ///< gate_up_proj, the gate's rows first, instead of gate_proj and up_proj
  bool norms_after = false;     ///< an RMSNorm on what attention and MLP give, before it is added (GLM-4-0414)
  bool tie_word_embeddings = false;
  std::int64_t bos_token_id = -1;  ///< -1: not given
  std::vector<std::int64_t> eos_token_ids;
  std::int64_t pad_token_id = -1;
  std::string dtype = "float32";

  /// Columns of a head that turn: an odd share is rounded up.
  std::int64_t rotary_dim() const;
  /// max_position_embeddings; dynamic: `factor` times as many; yarn: `factor` times original_max_position_embeddings if
  /// that is more.
  std::int64_t longest_sequence() const;
  ModelShape shape() const {
    return {num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim,
            hidden_size,       vocab_size,          longest_sequence()};
  }

  /// Whether a config.json's model_type is one of these.
  static bool knows(const std::string& model_type);
  /// Reads config.json's object. Error listing every problem: another architecture, sizes that don't divide, and every
  /// setting that would change the numbers and is not followed (a sliding window in effect, a quantised model, another
  /// activation, …). What is known to change no number is ignored; a warning names keys that nobody knows.
  static LlamaConfig from_json(const nlohmann::ordered_json& json);
  /// Keys as transformers writes them, rotary positions in the older spelling, which old and new versions read.
  nlohmann::ordered_json to_json() const;
  const char* title() const;  ///< "Llama", "Qwen2", …
};

}  // namespace moelora::model
