#pragma once
// A weight to multiply with: the seam behind which quantised forms can come later without the code of deltas and of
// autograd knowing. What a linear computes with its weight is a member here; the stored numbers stay inside.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace moelora::nn {

class FrozenWeight {
 public:
  explicit FrozenWeight(at::Tensor weight) : weight_(std::move(weight)) {}  ///< weight [d_out, d_in], any float dtype

  at::ScalarType dtype() const { return weight_.scalar_type(); }
  at::Device device() const { return weight_.device(); }
  std::int64_t out_features() const { return weight_.size(0); }
  std::int64_t in_features() const { return weight_.size(1); }
  /// Whether it is trained along: then only forward() may be used, which autograd records.
  bool requires_grad() const { return weight_.requires_grad(); }

  /// x W^T + bias. x [..., d_in], bias [d_out] or undefined; returns [..., d_out]. Differentiable.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias) const;
  /// The same; where no gradient is wanted, few rows take a kernel of our own (few_rows.h), which rounds differently.
  at::Tensor infer(const at::Tensor& x, const at::Tensor& bias) const;
  /// dy W, the gradient for x. dy [rows, d_out]; returns [rows, d_in].
  at::Tensor backward(const at::Tensor& dy) const;
  /// y += x W^T. y [rows, d_out].
  void add_forward(at::Tensor& y, const at::Tensor& x) const;

  /// Whether few_rows() takes these and is faster than forward(): nn::supports_few_rows (few_rows.h).
  bool supports_few_rows(const at::Tensor& x, const at::Tensor& bias) const;
  /// x W^T + v B^T + bias in one pass over the weight, without gradients: the weight with a low-rank part beside it.
  /// v [rows, r] and B [d_out, r] fp32; `columns` as in few_rows_product (few_rows.h). Returns [rows, d_out] in x's
  /// dtype.
  at::Tensor few_rows(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& v, const at::Tensor& B,
                      const std::vector<std::int64_t>& columns = {}) const;

 private:
  at::Tensor weight_;
};

}  // namespace moelora::nn
