#pragma once
// The linears and norms of a block, listed once for whoever asks something of all of them.

#include <array>
#include <cstddef>
#include <vector>

#include "moelora/model/llama/llama.h"

namespace moelora::model::llama {

enum Place : std::size_t { kQuery, kKey, kValue, kOutput, kGate, kUp, kDown, kLinears };  // kGate: gate_up_proj too

using Linears = std::array<nn::LinearImpl*, kLinears>;  // null: kUp, where gate and up are one linear

inline Linears linears_of(LlamaBlockImpl& block) {
  auto& attention = *block.self_attn;
  auto& mlp = *block.mlp;
  const bool fused = !mlp.gate_up_proj.is_empty();
  return {attention.q_proj.get(),
          attention.k_proj.get(),
          attention.v_proj.get(),
          attention.o_proj.get(),
          fused ? mlp.gate_up_proj.get() : mlp.gate_proj.get(),
          fused ? nullptr : mlp.up_proj.get(),
          mlp.down_proj.get()};
}

/// Those that the block has.
inline std::vector<const nn::RmsNormImpl*> norms_of(LlamaBlockImpl& block) {
  std::vector<const nn::RmsNormImpl*> norms;
  for (const nn::RmsNorm* norm :
       {&block.input_layernorm, &block.post_self_attn_layernorm, &block.post_attention_layernorm,
        &block.post_mlp_layernorm, &block.self_attn->q_norm, &block.self_attn->k_norm}) {
    if (!norm->is_empty()) {
      norms.push_back(norm->get());
    }
  }
  return norms;
}

}  // namespace moelora::model::llama
