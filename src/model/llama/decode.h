#pragma once
// One step of decoding: a few rows, no gradients, keys and values in a cache.

#include "moelora/model/kv_cache.h"
#include "moelora/model/llama/llama.h"

namespace moelora::model {

/// Llama::hidden from the embedded ids x [rows, hidden] on, for one new row of each of the cache's sequences;
/// cache.supports_append_row() must hold. The cache has not advanced yet.
at::Tensor decode_rows(LlamaImpl& model, const at::Tensor& x, const at::Tensor& positions,
                       const nn::RowContext& context, KvCache& cache);

}  // namespace moelora::model
