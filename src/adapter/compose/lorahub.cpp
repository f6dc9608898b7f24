#include "moelora/adapter/lorahub.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "moelora/io/error.h"

namespace moelora {
namespace {

void check_loras(const std::vector<nn::LowRank>& loras, const std::vector<double>& weights, bool same_rank) {
  MOELORA_CHECK(!loras.empty(), "expected LoRAs to compose, found none; pass at least one");
  MOELORA_CHECK(weights.size() == loras.size(), "expected one weight for each of ", loras.size(), " LoRAs, found ",
                weights.size(), "; pass as many as there are LoRAs");
  for (std::size_t i = 0; i < loras.size(); ++i) {
    const auto& [A, B] = loras[i];
    MOELORA_CHECK(A.defined() && B.defined() && A.dim() == 2 && B.dim() == 2 && A.size(0) == B.size(1) &&
                      A.scalar_type() == at::kFloat && B.scalar_type() == at::kFloat,
                  "expected float32 factors A [r, d_in] and B [d_out, r] of LoRA ", i, ", found ",
                  A.defined() && B.defined()
                      ? detail::concat("A ", A.toString(), " ", A.sizes(), " and B ", B.toString(), " ", B.sizes())
                      : "an undefined one",
                  "; pass the factors of one linear");
    const auto& first = loras.front();
    MOELORA_CHECK(A.size(1) == first.A.size(1) && B.size(0) == first.B.size(0), "expected an update of shape [",
                  first.B.size(0), ", ", first.A.size(1), "] from LoRA ", i, " as from LoRA 0, found [", B.size(0),
                  ", ", A.size(1), "]; pass the factors of the same linear");
    MOELORA_CHECK(!same_rank || A.size(0) == first.A.size(0), "expected rank ", first.A.size(0), " of LoRA ", i,
                  " as of LoRA 0, found ", A.size(0),
                  "; factors of different ranks can't be added, compose the updates instead");
  }
}

}  // namespace

nn::LowRank compose_factors(const std::vector<nn::LowRank>& loras, const std::vector<double>& weights) {
  check_loras(loras, weights, /*same_rank=*/true);
  at::NoGradGuard no_grad;
  at::Tensor A = at::zeros_like(loras.front().A, at::kDouble);
  at::Tensor B = at::zeros_like(loras.front().B, at::kDouble);
  for (std::size_t i = 0; i < loras.size(); ++i) {
    A.add_(loras[i].A.to(at::kDouble), weights[i]);
    B.add_(loras[i].B.to(at::kDouble), weights[i]);
  }
  return {A.to(at::kFloat), B.to(at::kFloat)};
}

nn::LowRank compose_updates(const std::vector<nn::LowRank>& loras, const std::vector<double>& weights) {
  check_loras(loras, weights, /*same_rank=*/false);
  at::NoGradGuard no_grad;
  std::vector<at::Tensor> A, B;
  for (std::size_t i = 0; i < loras.size(); ++i) {
    A.push_back(loras[i].A);
    B.push_back(loras[i].B.to(at::kDouble).mul_(weights[i]).to(at::kFloat));
  }
  return {at::cat(A, 0), at::cat(B, 1)};
}

}  // namespace moelora
