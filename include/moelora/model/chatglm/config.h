#pragma once
// config.json of a ChatGLM-6B model folder.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "moelora/model/model_shape.h"

namespace moelora::model {

struct ChatGlmConfig {
  std::int64_t vocab_size = 130528;
  std::int64_t hidden_size = 4096;
  std::int64_t num_layers = 28;
  std::int64_t num_attention_heads = 32;
  std::int64_t inner_hidden_size = 16384;
  std::int64_t max_sequence_length = 2048;
  double layernorm_epsilon = 1e-5;
  std::int64_t bos_token_id = 130004;    ///< `<sop>`
  std::int64_t eos_token_id = 130005;    ///< `<eop>`
  std::int64_t mask_token_id = 130000;   ///< [MASK]
  std::int64_t gmask_token_id = 130001;  ///< [gMASK]
  std::int64_t pad_token_id = 3;
  bool position_encoding_2d = true;
  std::string torch_dtype = "float16";

  /// The residual's constant: sqrt(2 · 28), whatever num_layers is (the reference never passes it down).
  static constexpr double kResidualAlpha = 7.483314773547883;

  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }
  ModelShape shape() const {
    return {num_layers,  num_attention_heads, num_attention_heads, head_dim(),
            hidden_size, vocab_size,          max_sequence_length};
  }
  std::int64_t parameter_count(bool tied_head) const;  ///< 6,173,286,400 for the defaults, tied.
  /// Reads config.json's object. Error listing every problem: another architecture, sizes that don't divide,
  /// position_encoding_2d = false, a quantised model.
  static ChatGlmConfig from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;  ///< Keys as in the ChatGLM-6B distribution.
};

}  // namespace moelora::model
