#pragma once
// What an adapter asks a model before it gives it a key/value prefix for each layer (RowContext::prefix). A model that
// implements this attends to that prefix in every forward.

#include <cstdint>

namespace moelora::nn {

/// L layers, each with keys and values of `heads` heads that are `head_dim` wide (where query heads share them, these
/// are fewer than the query heads).
struct PrefixShape {
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t hidden() const { return heads * head_dim; }
  std::int64_t width() const { return 2 * layers * hidden(); }  ///< of one position: all layers' keys and values
};

class PrefixHost {
 public:
  virtual ~PrefixHost() = default;
  virtual PrefixShape prefix_shape() const = 0;
};

}  // namespace moelora::nn
