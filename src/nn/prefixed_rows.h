#pragma once
// Packed segments with the rows of a key/value prefix in front of each, as bidirectional rows that nobody asks for: the
// kernels of attention without a prefix then serve with one. What is copied is small beside the products.

#include "moelora/nn/attention.h"

namespace moelora::nn {

class PrefixedRows {
 public:
  /// `length` rows in front of each segment; on a device one upload.
  PrefixedRows(const Segments& segments, std::int64_t length, const at::Device& device);

  std::int64_t length() const { return length_; }
  AttentionRows rows() const { return context_; }
  /// Where the wanted rows (undefined: all) lie, [n] int64.
  at::Tensor queries(const at::Tensor& output_rows) const;
  /// x [rows, heads, d] with `front` ([P, …] or [S, P, …]) before each segment; undefined: zeros.
  at::Tensor extend(const at::Tensor& x, const at::Tensor& front = {}) const;
  at::Tensor own_rows(const at::Tensor& all) const { return all.index_select(0, own_); }
  /// The gradient of a prefix: of each segment, or all of them together.
  at::Tensor front_rows(const at::Tensor& all, const at::Tensor& like) const;

 private:
  std::int64_t length_;
  RowContext context_;      // segments and tables only
  at::Tensor own_, front_;  // int64: where the segments' rows and the prefix's lie
};

}  // namespace moelora::nn
