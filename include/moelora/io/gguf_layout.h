#pragma once
// How the GGUF file of a model names and orders its linears, which is not how the model's own folder does.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moelora::io {

/// Where a linear's weight [d_out, d_in] is in the model's GGUF file.
struct GgufLinear {
  std::string tensor;  ///< "blk.0.attn_q.weight"
  /// Row i of the tensor is row rows[i] of the weight, a permutation of 0 … d_out - 1; empty: the same order.
  std::vector<std::int64_t> rows;
};

struct GgufLayout {
  std::string architecture;                   ///< general.architecture, by which llama.cpp chooses the graph.
  std::map<std::string, GgufLinear> linears;  ///< By the linear's module path.
};

}  // namespace moelora::io
