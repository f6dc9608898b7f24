#pragma once
// Keys and values of the rows that a batch of sequences has seen. Sequences may differ in length; each keeps its own
// count. On a CPU each has its own slot: rows are appended in place, and when a sequence leaves the batch no data
// moves. Where more rows come than there is room for, the room doubles, and the rows of the sequences that are left
// move once. On a device with kernels they lie in pages: a sequence that grows gets more of them, and nothing ever
// moves.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "moelora/model/model_shape.h"
#include "moelora/nn/attention.h"
#include "moelora/nn/decode_attention.h"
#include "moelora/nn/rotary.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

class KeyValuePages;  // src/model/key_value_pages.h

class KvCache {
 public:
  /// Room for `capacity` rows in each of `sequences` sequences, the rows of a prefix included, to begin with. Pages are
  /// taken as prompts and answers need them.
  KvCache(const ModelShape& shape, std::int64_t sequences, std::int64_t capacity, at::ScalarType dtype,
          at::Device device);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  std::int64_t length(std::int64_t sequence) const { return lengths_[sequence]; }
  std::int64_t sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t capacity() const;  ///< rows that fit into each slot or each sequence's pages at present

  /// Appends this forward's rows of one layer and attends: the first forward is the prompt (as the segments say), later
  /// ones are new rows that see everything before them. q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim],
  /// q and k rotated if the model rotates. Segment i belongs to sequence i. In pages no gradients are recorded.
  at::Tensor append_and_attend(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const nn::AttentionRows& attention, const nn::KeyValuePrefix& prefix = {});
  /// Whether the prompt has been seen and append_row works: on a CPU or in pages, without gradients.
  bool supports_append_row() const;
  /// The same for one new row of each sequence, in one kernel (nn::decode_attention). q and k are turned by `rotary`
  /// here, in fp32, and the query is used unrounded; without tables they are rotated already. On a CPU they may then be
  /// fp32 in a half model.
  at::Tensor append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const nn::Rotary& rotary = {});
  /// For a graph that appends by itself: what the sequences have in a layer, with room for one more row of each. It
  /// stays valid, for every layer, until advance() or keep(). Not in pages.
  nn::CachedSequences cached(std::int64_t layer);
  /// Called once after the last layer of a forward.
  void advance(const nn::Segments& segments);
  /// Keeps only these sequences, in this order (those that ended leave the batch). Moves indices, no data.
  void keep(const std::vector<std::int64_t>& sequences);

  // For steps that a device records and replays (src/model/decode_graph.h).

  /// Makes room for one more row of each sequence, which is no part of what is recorded. Other steps do it themselves.
  void reserve_next();
  /// After a replayed step: one more row of each sequence, which the device has counted already.
  void count_replayed_row();
  /// A recorded step serves as long as this stays the same.
  std::int64_t recorded_form() const;

 private:
  bool sees_prompt() const { return lengths_.empty() || lengths_.front() == 0; }
  at::Tensor append_in_pages(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const nn::AttentionRows& attention, const nn::KeyValuePrefix& prefix);
  at::Tensor make_slots(std::int64_t slots, std::int64_t capacity) const;
  void reserve(std::int64_t rows);

  ModelShape shape_;
  at::ScalarType dtype_;
  at::Device device_;
  std::unique_ptr<KeyValuePages> pages_;  ///< null: the slots below
  std::vector<at::Tensor> keys_;          ///< per layer [slots, kv_heads, capacity, head_dim]
  std::vector<at::Tensor> values_;        ///< as keys_
  std::vector<std::int64_t> slots_;       ///< of each sequence
  std::vector<std::int64_t> lengths_;
  std::int64_t capacity_ = 0;
  std::int64_t prefix_rows_ = 0;  ///< stored in front of every sequence; not counted in lengths_
};

}  // namespace moelora::model
