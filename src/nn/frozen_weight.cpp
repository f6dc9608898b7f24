#include "moelora/nn/frozen_weight.h"

#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include "moelora/nn/few_rows.h"

namespace moelora::nn {

at::Tensor FrozenWeight::forward(const at::Tensor& x, const at::Tensor& bias) const {
  return bias.defined() ? at::linear(x, weight_, bias) : at::linear(x, weight_);
}

at::Tensor FrozenWeight::infer(const at::Tensor& x, const at::Tensor& bias) const {
  if (supports_few_rows(x, bias) && x.scalar_type() == dtype()) {
    return few_rows_product(x, weight_, bias);
  }
  return forward(x, bias);
}

at::Tensor FrozenWeight::backward(const at::Tensor& dy) const { return at::mm(dy, weight_); }

void FrozenWeight::add_forward(at::Tensor& y, const at::Tensor& x) const { y.addmm_(x, weight_.t()); }

bool FrozenWeight::supports_few_rows(const at::Tensor& x, const at::Tensor& bias) const {
  return nn::supports_few_rows(x, weight_, bias);
}

at::Tensor FrozenWeight::few_rows(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& v, const at::Tensor& B,
                                  const std::vector<std::int64_t>& columns) const {
  return few_rows_product(x, weight_, bias, v, B, {}, columns);
}

}  // namespace moelora::nn
