#pragma once
// MTL-LoRA's update of one linear (Yang et al., arXiv 2410.09437): a matrix of each task between shared A and B,
// h = W0 x + s · B Λ_t A x with Λ_t [r, r] and s = alpha / r. One B: the paper's average of several up-projections by
// learned weights of each task is left out. Λ_t begins as the identity, as in the paper's code, so training starts as
// plain LoRA's; A begins as everywhere in this library. A task's update is a LoRA of rank r: A with B Λ_t.
//
// The matrices are the "experts" of the configuration: Λ(ω) = Σ_n ω_n Λ_n, where routing "single" gives ω = 1 to the
// task's own. Sequences of several tasks, mixtures and gates (routing "task" over fewer matrices than tasks) follow.

#include <torch/nn/pimpl.h>

#include <utility>
#include <vector>

#include "moelora/adapter/delta_kind.h"

namespace moelora {

class MtlLoraLinearImpl : public nn::LinearDelta {
 public:
  /// `gate`: row of RowContext::expert_weights that this linear uses. `key`: which linear it is, for dropout masks.
  MtlLoraLinearImpl(std::int64_t in_features, std::int64_t out_features, const MoeLoraConfig& config, std::int64_t gate,
                    std::uint64_t key);
  /// A ~ N(0, 0.01²), B = 0, Λ_n = I.
  void reset_parameters(at::Generator generator) override;
  void pretty_print(std::ostream& stream) const override;

  /// Few rows without gradients in two passes, else one autograd function.
  at::Tensor forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                     const nn::RowContext& context) override;
  /// The same by plain differentiable operations, each row with its segment's Λ: the readable reference that tests
  /// compare with; also used when the base weight is trained along.
  at::Tensor forward_reference(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                               const nn::RowContext& context) const;
  std::string not_mergeable() const override { return {}; }
  nn::LowRankForm low_rank(const at::Tensor& omega) const override;  ///< A and B Λ(ω)

  bool supports_manual_backward() const override { return true; }
  std::vector<at::Tensor> trained() const override { return {A, B, Lambda}; }
  at::Tensor begin_forward(const at::Tensor& x, const at::Tensor& bias, const nn::RowContext& context,
                           at::Tensor& tape) const override;  ///< tape: A drop(x), [rows, r]
  void finish_backward(const at::Tensor& dy, const nn::RowSource& x, const at::Tensor& tape,
                       const nn::RowContext& context, at::Tensor& dx, nn::DeltaGradients& gradients) const override;

  at::Tensor A;       ///< [r, d_in] fp32
  at::Tensor B;       ///< [d_out, r] fp32
  at::Tensor Lambda;  ///< [N, r, r] fp32

 private:
  // ω of each segment, [S, N].
  at::Tensor omega_of(const nn::RowContext& context) const;
  at::Tensor omega_of_rows(const nn::RowContext& context) const;  // [rows, N] in A's dtype
  // Λ(ω) u for all rows as one product: (ω ⊗ u) [rows, N r] with the stacked Λ_n^T [N r, r]. A constant number of
  // operations whatever the tasks and segments are, and its transposes are the gradients.
  at::Tensor weighted(const at::Tensor& u, const at::Tensor& omega) const;
  at::Tensor stacked() const;
  at::Tensor few_rows(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                      const nn::RowContext& context) const;
  bool trains() const { return A.requires_grad() || B.requires_grad() || Lambda.requires_grad(); }
  std::int64_t rank() const { return A.size(0); }
  std::int64_t matrices() const { return Lambda.size(0); }
  double scaling_;
  double dropout_;
  std::int64_t gate_;
  std::uint64_t key_;
};
TORCH_MODULE(MtlLoraLinear);

/// "mtl-lora"; num_experts is the number of matrices.
DeltaKind mtl_lora_kind();

}  // namespace moelora
