#pragma once
// A whole block as one autograd function, forward and backward written out: what is cheap to recompute (norms, SwiGLU,
// attention's scores, dropout masks) is not stored, and nothing is computed that nobody asked for.

#include <memory>

#include "moelora/model/llama/llama.h"

namespace moelora::model {

/// Whether the block can run fused: frozen weights, deltas that offer it, no cache.
bool supports_fused_block(LlamaBlockImpl& block, const LayerInput& input);

/// The same as LlamaBlockImpl's plain operations. x [rows, hidden] → [rows or n, hidden]. With `input.recompute` only x
/// is stored, and backward recomputes the forward.
at::Tensor fused_block(std::shared_ptr<LlamaBlockImpl> block, const at::Tensor& x, const LayerInput& input);

}  // namespace moelora::model
