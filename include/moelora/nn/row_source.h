#pragma once
// Rows that backward makes again instead of storing: the inputs of linears that are cheap functions of what is stored
// anyway.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual at::Tensor all() const = 0;  ///< [rows, width]
  /// Some of the rows into out [count, width], contiguous. fp32 on the CPU only; called from several threads.
  virtual void some(std::int64_t begin, std::int64_t count, float* out) const = 0;

  /// Whether the rows are an element-wise function of what is stored. Their gradient is then chained through it, so
  /// that backward_by_hand hands on the gradient of what is stored.
  virtual bool chains() const { return false; }
  /// some(), and the function's slope [count, width]. Only if it chains.
  virtual void some_with_slope(std::int64_t begin, std::int64_t count, float* out, float* slope) const;
  /// dx := dx · slope, all rows. Only if it chains.
  virtual void chain(at::Tensor& dx) const;
};

/// Rows that are stored.
class StoredRows : public RowSource {
 public:
  explicit StoredRows(at::Tensor rows) : rows_(std::move(rows)) {}  ///< contiguous
  at::Tensor all() const override { return rows_; }
  void some(std::int64_t begin, std::int64_t count, float* out) const override;

 private:
  at::Tensor rows_;
};

/// The output of a layer normalisation, from its input x [rows, width] and statistics [rows, 1].
class NormalisedRows : public RowSource {
 public:
  NormalisedRows(at::Tensor x, at::Tensor mean, at::Tensor rstd, at::Tensor weight, at::Tensor bias);
  at::Tensor all() const override;
  void some(std::int64_t begin, std::int64_t count, float* out) const override;

 private:
  at::Tensor x_, mean_, rstd_, weight_, bias_;
};

/// GELU (tanh form) of x [rows, width].
class GeluRows : public RowSource {
 public:
  explicit GeluRows(at::Tensor x) : x_(std::move(x)) {}  ///< contiguous
  at::Tensor all() const override;
  void some(std::int64_t begin, std::int64_t count, float* out) const override;
  bool chains() const override { return true; }
  void some_with_slope(std::int64_t begin, std::int64_t count, float* out, float* slope) const override;
  void chain(at::Tensor& dx) const override;

 private:
  at::Tensor x_;
};

}  // namespace moelora::nn
