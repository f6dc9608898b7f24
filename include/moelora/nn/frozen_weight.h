#pragma once
// A weight to multiply with: the seam behind which quantised forms can come later without the autograd code knowing.

#include <ATen/core/Tensor.h>

namespace moelora::nn {

class FrozenWeight {
 public:
  explicit FrozenWeight(at::Tensor weight) : weight_(std::move(weight)) {}  ///< weight [d_out, d_in], any float dtype

  const at::Tensor& value() const { return weight_; }
  at::ScalarType dtype() const { return weight_.scalar_type(); }
  std::int64_t out_features() const { return weight_.size(0); }
  std::int64_t in_features() const { return weight_.size(1); }

  /// x W^T + bias. x [..., d_in], bias [d_out] or undefined; returns [..., d_out].
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias) const;
  /// The same; where no gradient is wanted, few rows take a kernel of our own (few_rows.h), which rounds differently.
  at::Tensor infer(const at::Tensor& x, const at::Tensor& bias) const;
  /// dy W, the gradient for x. dy [rows, d_out]; returns [rows, d_in].
  at::Tensor backward(const at::Tensor& dy) const;
  /// y += x W^T. y [rows, d_out].
  void add_forward(at::Tensor& y, const at::Tensor& x) const;

 private:
  at::Tensor weight_;
};

}  // namespace moelora::nn
