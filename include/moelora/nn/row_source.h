#pragma once
// Rows that backward recomputes instead of storing: the inputs of linears that are cheap functions of what is stored
// anyway.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

/// What rows are made of, for kernels that compute them again in registers.
struct RowRecipe {
  enum class Function { stored, gelu, normalised };
  Function function = Function::stored;
  at::Tensor x;       ///< [rows, width] contiguous: the rows, or what the function is applied to
  at::Tensor mean;    ///< [rows, 1] fp32; these four for normalised rows only
  at::Tensor rstd;    ///< [rows, 1] fp32
  at::Tensor weight;  ///< [width] in the type of x
  at::Tensor bias;    ///< [width] in the type of x
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual at::Tensor all() const = 0;  ///< [rows, width]
  /// Some of the rows into out [count, width], contiguous. fp32 on the CPU only; called from several threads.
  virtual void some(std::int64_t begin, std::int64_t count, float* out) const = 0;
  /// Here all(), stored.
  virtual RowRecipe recipe() const;

  /// Whether the rows are an elementwise function of what is stored. Their gradient is then multiplied by its
  /// derivative, so that manual_backward hands on the gradient of what is stored.
  virtual bool is_elementwise() const { return false; }
  /// some(), and the function's derivative [count, width]. Only if is_elementwise().
  virtual void some_with_derivative(std::int64_t begin, std::int64_t count, float* out, float* derivative) const;
  /// dx := dx · derivative, all rows. Only if is_elementwise().
  virtual void multiply_by_derivative(at::Tensor& dx) const;
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
  RowRecipe recipe() const override;  ///< all(), stored, where types or layouts are others than a recipe has.

 private:
  at::Tensor x_, mean_, rstd_, weight_, bias_;
};

/// GELU (tanh form) of x [rows, width].
class GeluRows : public RowSource {
 public:
  explicit GeluRows(at::Tensor x) : x_(std::move(x)) {}  ///< contiguous
  at::Tensor all() const override;
  void some(std::int64_t begin, std::int64_t count, float* out) const override;
  RowRecipe recipe() const override { return {RowRecipe::Function::gelu, x_, {}, {}, {}, {}}; }
  bool is_elementwise() const override { return true; }
  void some_with_derivative(std::int64_t begin, std::int64_t count, float* out, float* derivative) const override;
  void multiply_by_derivative(at::Tensor& dx) const override;

 private:
  at::Tensor x_;
};

}  // namespace moelora::nn
