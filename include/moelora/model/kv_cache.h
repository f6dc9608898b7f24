#pragma once
// Keys and values of the rows that a batch of sequences has seen. Sequences may differ in length; each keeps its own
// count and its own slot: rows are appended in place, and when a sequence leaves the batch no data moves. Where
// more rows come than there is room for, the room doubles, and the rows of the sequences that are left move once.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/model/model_shape.h"
#include "moelora/nn/attention.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

class KvCache {
 public:
  /// Room for `capacity` rows in each of `sequences` sequences, the rows of a prefix included, to begin with.
  KvCache(const ModelShape& shape, std::int64_t sequences, std::int64_t capacity, at::ScalarType dtype,
          at::Device device);

  std::int64_t length(std::int64_t sequence) const { return lengths_[sequence]; }
  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const { return capacity_; }  ///< rows that fit into each slot at present

  /// Appends this forward's rows of one layer and attends: the first forward is the prompt (as the segments say), later
  /// ones are new rows that see everything before them. q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim],
  /// q and k rotated if the model rotates. Segment i belongs to sequence i.
  at::Tensor append_and_attend(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const nn::Segments& segments, const nn::KeyValuePrefix& prefix = {});
  /// Whether the prompt has been seen and append_row works: on a CPU, without gradients.
  bool supports_append_row() const;
  /// The same for one new row of each sequence, in one kernel (nn::decode_attention). q and k may be fp32 in a half
  /// model: the query is used unrounded.
  at::Tensor append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  /// Called once after the last layer of a forward.
  void advance(const nn::Segments& segments);
  /// Keeps only these sequences, in this order (those that ended leave the batch). Moves indices, no data.
  void keep(const std::vector<std::int64_t>& sequences);

 private:
  at::Tensor make_slots(std::int64_t slots, std::int64_t capacity) const;
  void reserve(std::int64_t rows);

  ModelShape shape_;
  at::ScalarType dtype_;
  at::Device device_;
  std::vector<at::Tensor> keys_;     ///< per layer [slots, kv_heads, capacity, head_dim]
  std::vector<at::Tensor> values_;   ///< as keys_
  std::vector<std::int64_t> slots_;  ///< of each sequence
  std::vector<std::int64_t> lengths_;
  std::int64_t capacity_ = 0;
  std::int64_t prefix_rows_ = 0;  ///< stored in front of every sequence; not counted in lengths_
};

}  // namespace moelora::model
