#pragma once
// Keys and values of the rows that a batch of sequences has seen. Sequences may differ in length; each keeps its own
// count and its own slot: rows are appended in place, and when a sequence leaves the batch no data moves.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/nn/attention.h"
#include "moelora/nn/rotary.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

class KvCache {
 public:
  /// Room for `capacity` rows in each of `sequences` sequences, the rows of a prefix included.
  KvCache(std::int64_t layers, std::int64_t sequences, std::int64_t capacity, std::int64_t heads, std::int64_t head_dim,
          at::ScalarType dtype, at::Device device);

  std::int64_t length(std::int64_t sequence) const { return lengths_[sequence]; }
  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }

  /// Appends this forward's rows of one layer and attends: the first forward is the prompt (prefix-LM inside each
  /// segment), later ones are new rows that see everything before them. q, k, v [rows, heads, head_dim], rotated.
  /// Segment i belongs to sequence i.
  at::Tensor append_and_attend(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const nn::Segments& segments, const nn::KeyValuePrefix& prefix = {});
  /// Whether the prompt has been seen and append_row works: on a CPU, without gradients.
  bool supports_append_row() const;
  /// The same for one new row of each sequence (nn::decode_attention): q, k, v [sequences, heads, head_dim], q and k
  /// not yet rotated.
  at::Tensor append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const nn::RotaryTables& tables);
  /// Called once after the last layer of a forward.
  void advance(const nn::Segments& segments);
  /// Keeps only these sequences, in this order (those that ended leave the batch). Moves indices, no data.
  void keep(const std::vector<std::int64_t>& sequences);

 private:
  std::vector<at::Tensor> keys_;     ///< per layer [slots, heads, capacity, head_dim]
  std::vector<at::Tensor> values_;   ///< as keys_
  std::vector<std::int64_t> slots_;  ///< of each sequence
  std::vector<std::int64_t> lengths_;
  std::int64_t capacity_;
  std::int64_t prefix_rows_ = 0;  ///< stored in front of every sequence; not counted in lengths_
};

}  // namespace moelora::model
