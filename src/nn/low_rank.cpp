#include "moelora/nn/low_rank.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/any.h>
#include <ATen/ops/mm.h>

namespace moelora::nn {

bool LowRank::is_zero() const { return !(A.any().item<bool>() && B.any().item<bool>()); }

at::Tensor LowRank::dense() const { return at::mm(B, A); }

at::Tensor LowRank::added_to(const at::Tensor& weight) const { return at::addmm(weight.to(at::kFloat), B, A); }

LowRank LowRankForm::update() const {
  if (!weights.defined()) {
    return {A, B * scale};
  }
  return {A, B * (weights * scale).to(B.device()).unsqueeze(0)};
}

at::Tensor LowRankForm::weighted_B() const { return weights.defined() ? B * weights.to(B.device()).unsqueeze(0) : B; }

}  // namespace moelora::nn
