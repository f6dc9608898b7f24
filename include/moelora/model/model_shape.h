#pragma once
// The sizes of a decoder that caches, prefixes, plans and texts need.

#include <cstdint>

namespace moelora::model {

struct ModelShape {
  std::int64_t layers = 0;
  std::int64_t heads = 0;     ///< of queries
  std::int64_t kv_heads = 0;  ///< of keys and values: each serves heads / kv_heads query heads, in order
  std::int64_t head_dim = 0;  ///< width of one head; need not be hidden_size / heads
  std::int64_t hidden_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t max_sequence_length = 0;  ///< prompt and answer together
};

}  // namespace moelora::model
