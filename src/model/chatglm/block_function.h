#pragma once
// A whole block as one autograd function, forward and backward written out: what is cheap to make again (norms, GELU,
// attention's scores, dropout masks) is not stored, and nothing is computed that nobody asked for.

#include "moelora/model/chatglm/chatglm.h"

namespace moelora::model {

/// Whether the block can run by hand: frozen weights, deltas that offer it, no cache and no prefix.
bool can_run_by_hand(ChatGlmBlockImpl& block, const LayerInput& input);

/// The same as ChatGlmBlockImpl's plain operations. x [rows, hidden] → [rows or n, hidden]. With `recompute` only x is
/// stored, and backward runs the forward again.
at::Tensor block_by_hand(std::shared_ptr<ChatGlmBlockImpl> block, const at::Tensor& x, const LayerInput& input,
                         bool recompute);

}  // namespace moelora::model
