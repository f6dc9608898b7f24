#pragma once
// What a decoder's block needs besides its rows; the same for all blocks but for layer and output rows.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "moelora/nn/rotary.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

class KvCache;

struct LayerInput {
  const nn::Rotary& rotary;
  const nn::RowContext& context;
  std::int64_t layer = 0;
  KvCache* cache = nullptr;
  at::Tensor output_rows;         ///< [n] int64: the rows wanted; undefined: all
  nn::RowContext output_context;  ///< context.select(output_rows)
  bool recompute = false;         ///< Store only the block's input; backward recomputes the block.
  nn::KeyValuePrefix prefix() const { return context.prefix.empty() ? nn::KeyValuePrefix{} : context.prefix[layer]; }
};

}  // namespace moelora::model
