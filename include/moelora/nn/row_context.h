#pragma once
// What a packed micro-batch's rows are. Hidden states are [rows, d]: the tokens of all S sequences ("segments") back to
// back, no padding. Everything that a layer needs to know about the rows travels in one RowContext, passed explicitly.
//
// Glossary: S segments, N experts, r rank, d_in and d_out widths of a linear.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace moelora::nn {

struct Segments {
  std::vector<std::int64_t> offsets{0};  ///< [S+1] first row of each segment; the last entry is the number of rows.
  /// [S] leading rows that attend to each other in both directions: all rows of a source in a prefix-LM, 0 in a causal
  /// model. The rows behind them attend to everything up to themselves.
  std::vector<std::int64_t> bidirectional;

  static Segments from_lengths(const std::vector<std::int64_t>& lengths,
                               const std::vector<std::int64_t>& bidirectional);
  /// Causal sequences: no bidirectional rows.
  static Segments from_lengths(const std::vector<std::int64_t>& lengths);
  /// B sequences of T rows each, as a padded [B, T, d] input has them, all rows bidirectional.
  static Segments for_batch(std::int64_t batch, std::int64_t length);

  std::int64_t count() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::int64_t rows() const { return offsets.back(); }
  std::int64_t length(std::int64_t segment) const { return offsets[segment + 1] - offsets[segment]; }
};

/// What makes a dropout mask: two runs that agree in these draw the same mask, however the samples are packed, in
/// whatever order, on any number of threads or ranks.
struct DropoutKey {
  std::uint64_t seed = 0;
  std::vector<std::int64_t> draws;  ///< [S] global draw index of each sample; empty: dropout is off.
  bool active() const { return !draws.empty(); }
  /// The key of one step of a training loop: `batch` samples, of which sample i has draw index step · batch + i. Steps
  /// count from 0, and `batch` is the same in every step, so that no two samples of a run share a mask.
  static DropoutKey for_step(std::uint64_t seed, std::int64_t step, std::int64_t batch);
};

/// A key/value prefix of one layer, seen by every row, never masked, not rotated (P-Tuning v2).
struct KeyValuePrefix {
  at::Tensor key;    ///< [P, kv_heads, head_dim], or [S, P, kv_heads, head_dim] for one prefix per segment
  at::Tensor value;  ///< as key
  bool defined() const { return key.defined(); }
  std::int64_t length() const { return key.defined() ? key.size(-3) : 0; }  ///< P
};

/// An adapter as its contexts and deltas know it; one for each adapter, shared by all of them.
struct AdapterIdentity {
  std::uint64_t id = 0;  ///< Never given twice in a process, so a second adapter of the same name has another.
  std::string name;
  std::vector<std::string> tasks;
  bool tasks_differ = true;       ///< Whether the update depends on the task (not with N = 1 or uniform routing).
  std::string merged;             ///< What is folded into the base at present, for messages; empty: nothing.
  std::int64_t merged_task = -1;  ///< The task that it is; -1: none, or a mixture.
  bool modules_in_base = false;   ///< Whether modules of the base hold values of this adapter at present.
};

/// Where a context comes from.
struct ContextOrigin {
  std::shared_ptr<const AdapterIdentity> adapter;
  std::vector<std::int64_t> tasks;  ///< Every task of its sequences once, ascending.
  /// Error naming both tasks if the adapter is merged and the merged weights are not what this context asks for.
  void require_merged_alike() const;
};

/// Boundaries of attention as kernels of variable length take them, made once per micro-batch; on the rows' device. S
/// segments are 2 S parts: the bidirectional rows of each, then its causal rows; either may be empty.
struct AttentionTables {
  at::Tensor parts;           ///< [2 S + 1] int32: first row of each part, then the number of rows
  at::Tensor segments;        ///< [S + 1] int32: first row of each segment, then the number of rows
  at::Tensor causal_rows;     ///< [C] int64: the causal rows of all segments, ascending
  at::Tensor causal_offsets;  ///< [S + 1] int32: where each segment's causal rows begin in causal_rows
  at::Tensor causal_of_row;   ///< [rows] int32: which entry of causal_rows a row is; -1: a bidirectional row
  std::int64_t longest_part = 0;
  std::int64_t longest_segment = 0;
  std::int64_t longest_causal = 0;
  std::int64_t shortest_causal = 0;  ///< causal rows of the segment that has the fewest

  /// On the CPU.
  static AttentionTables of(const Segments& segments);
  std::vector<at::Tensor*> tensors() { return {&parts, &segments, &causal_rows, &causal_offsets, &causal_of_row}; }
};

class PrefixedRows;  // nn/prefixed_rows.h

/// Immutable once made; one per micro-batch. Made by Adapter::context or by plain().
struct RowContext {
  Segments segments;
  at::Tensor segment_of_row;  ///< [rows] int64, on the device of the rows.
  at::Tensor row_in_segment;  ///< [rows] int64: position of each row in its sample, same device.
  at::Tensor draw_of_row;     ///< [rows] int64: draw index of each row's sample, same device; undefined: no dropout.
  at::Tensor expert_weights;  ///< [gates, S, N] fp32; undefined without an adapter, for N = 1 and for token routing.
  DropoutKey dropout;
  /// Null on a CPU, where attention reads `segments`, and in contexts of selected rows.
  std::shared_ptr<const AttentionTables> attention;
  /// [S] fp32: what each sample weighs in the step's objective, for losses that a layer adds to it (a token router's
  /// balance) as a gradient of its own; undefined: no such losses (evaluation).
  at::Tensor sample_weights;
  std::vector<KeyValuePrefix> prefix;  ///< One per layer of the model; empty: none. See set_prefix.
  /// What attention behind a prefix reads on a device, where layers would make it each for itself; null on a CPU.
  std::shared_ptr<const PrefixedRows> prefixed_rows;
  /// The adapter that made it; null: none. A linear refuses the context of an adapter other than its active one.
  std::shared_ptr<const ContextOrigin> origin;

  std::int64_t rows() const { return segment_of_row.size(0); }
  /// Gives the context under construction its prefixes, all of one length; on a device one upload.
  void set_prefix(std::vector<KeyValuePrefix> prefixes);
  /// The context of a forward without adapter: boundaries only, and the draw indices of `dropout` where it is active
  /// (an Error unless there is one for each segment). One upload, which `along` shares: contiguous tensors of the CPU
  /// that are replaced by their copies on `device`.
  static RowContext plain(Segments segments, const at::Device& device = at::kCPU, DropoutKey dropout = {},
                          const std::vector<at::Tensor*>& along = {});
  /// The context of some of the rows, [n] int64, for layers that treat each row by itself; `segments` keeps describing
  /// the whole batch, so it is no context for attention and has no prefix.
  RowContext select(const at::Tensor& rows) const;
  /// The context of one row for each segment, x [S, d]: a head on pooled hidden states. Expert weights and dropout are
  /// those of the segments.
  RowContext pooled() const;
  /// The context of the next step of decoding: one causal row of each of these segments, in this order. Expert weights
  /// are taken over, dropout is off; a prefix is not repeated, for the prompt's step has stored it.
  RowContext next_rows(const std::vector<std::int64_t>& kept) const;
  /// The context of another sequence, of `length` rows, with the expert weights and the prefix of one of these
  /// segments. Dropout is off.
  RowContext like_segment(std::int64_t segment, std::int64_t length, std::int64_t bidirectional) const;

 private:
  RowContext with_experts_of(Segments rows, const std::vector<std::int64_t>& chosen) const;
};

/// Makes the context of a forward from the boundaries of its sequences: an adapter's context bound to the sequences'
/// tasks (for_tasks in adapter/adapter.h), or RowContext::plain.
using ContextMaker = std::function<RowContext(const Segments&)>;

}  // namespace moelora::nn
