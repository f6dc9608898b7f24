#pragma once
// A small decoder of the Llama kind (SmolLM2-135M's shape), its adapter, and its yardstick: the same model written with
// plain LibTorch operations and autograd, as Python users run it. The yardstick shares the weights.

#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/model/llama/llama.h"
#include "moelora/train/step.h"

namespace moelora::bench {

/// 30 layers, hidden 576, 9 heads over 3 of keys and values, inner 1536, vocabulary 49152, tied head; random fp32
/// weights, frozen.
model::Llama small_decoder();
/// N = 8, r = 16, alpha 32, dropout 0.1, all seven linears. B is random too: zeros would be a special case.
Adapter small_decoder_adapter(model::Llama& model, std::int64_t tasks = 4);

/// Sequences of one length, so that nothing is padded: causal attention by at::scaled_dot_product_attention, full
/// logits, mean loss over the labels. `embedded`: the gradient goes there, as a frozen model needs it for anything
/// below.
class PlainDecoder {
 public:
  PlainDecoder(model::Llama model, const std::vector<const data::Example*>& examples);
  /// Forward and backward; returns the loss.
  double step();

 private:
  at::Tensor block(const at::Tensor& x, model::LlamaBlockImpl& block) const;
  model::Llama model_;
  at::Tensor ids_;        // [B, T]
  at::Tensor labels_;     // [B, T], -100 where there is none
  at::Tensor cos_, sin_;  // [T, head_dim]
};

}  // namespace moelora::bench
