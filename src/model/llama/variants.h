#pragma once
// What the model types of the Llama kind differ in, and the values that their configurations may leave out.

#include <cstdint>
#include <string>

#include "moelora/model/llama/config.h"
#include "moelora/nn/rotary.h"

namespace moelora::model {

struct LlamaVariant {
  enum class Bias { none, always, by_key };
  enum class Window {
    unknown,   ///< the model type has none
    by_layer,  ///< use_sliding_window, and layers from max_window_layers on, or layer_types
    all        ///< every layer; 4096 where the key is absent
  };
  const char* model_type = "";
  const char* title = "";
  const char* architecture = "";
  Bias attention_bias = Bias::none;
  bool default_attention_bias = false;  ///< by_key
  bool bias_of_output = false;          ///< o_proj has one where q_proj has
  bool mlp_bias = false;                ///< the key exists
  bool query_key_norm = false;
  bool fused_gate_up = false;
  bool norms_after = false;
  nn::RotaryPairing pairing = nn::RotaryPairing::half;
  bool partial_rotary = false;  ///< the key is followed
  double default_partial = 1.0;
  Window window = Window::unknown;
  std::int64_t default_kv_heads = 0;  ///< 0: as many as query heads
  std::int64_t default_head_dim = 0;  ///< 0: hidden_size / num_attention_heads
  std::int64_t default_max_positions = 0;
  double default_epsilon = 1e-6;
};

/// nullptr: no such type.
const LlamaVariant* find_llama_variant(const std::string& model_type);
/// "llama, mistral, …".
std::string llama_model_types();

/// The choices of a variant that no key of a config.json changes.
void apply_llama_variant(const LlamaVariant& variant, LlamaConfig& config);

}  // namespace moelora::model
