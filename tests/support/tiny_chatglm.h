#pragma once
// A ChatGLM graph small enough for tests, with random weights.

#include "moelora/model/chatglm/chatglm.h"

namespace moelora::testing {

inline model::ChatGlmConfig tiny_config() {
  model::ChatGlmConfig config;
  config.vocab_size = 96;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.num_attention_heads = 4;
  config.inner_hidden_size = 64;
  config.max_sequence_length = 64;
  config.mask_token_id = 90;
  config.gmask_token_id = 91;
  config.bos_token_id = 94;
  config.eos_token_id = 95;
  config.torch_dtype = "float32";
  return config;
}

}  // namespace moelora::testing
