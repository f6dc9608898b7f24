#pragma once
// The MOELoRA update of one linear in stacked form (arXiv 2310.18339): with A = [A_1; …; A_N] [r, d_in] and
// B = [B_1 … B_N] [d_out, r], the experts are a diagonal: h = W0 x + s · B (g_j ⊙ (A x)), where g_j repeats each entry
// of ω_j r/N times and s = alpha / r. Cost and memory are plain LoRA's, whatever N is. With routing "single" on the CPU
// a row costs what plain LoRA of rank r/N costs: only its task's slices of A and B are multiplied.

#include <torch/nn/pimpl.h>

#include <vector>

#include "moelora/adapter/delta_kind.h"

namespace moelora::nn::kernels {
struct DeviceLowRank;  // nn/kernels/cuda/low_rank.h
struct LowRankCall;    // nn/kernels/cpu/low_rank_rows.h
}  // namespace moelora::nn::kernels

namespace moelora {

class MoeLoraLinearImpl : public nn::LinearDelta {
 public:
  /// `gate`: row of RowContext::expert_weights that this linear uses. `key`: which linear it is, for dropout masks.
  MoeLoraLinearImpl(std::int64_t in_features, std::int64_t out_features, const MoeLoraConfig& config, std::int64_t gate,
                    std::uint64_t key);
  /// A ~ N(0, 0.01²), B = 0, router ~ U(±1/sqrt(d_in)) as LibTorch's Linear.
  void reset_parameters(at::Generator generator) override;
  void pretty_print(std::ostream& stream) const override;

  /// One custom autograd function: saves x, A x and ω, regenerates dropout's mask, computes no gradient of the base.
  at::Tensor forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                     const nn::RowContext& context) override;
  /// The same by plain differentiable operations: the readable reference that tests compare with; also used when the
  /// base weight is trained along.
  at::Tensor forward_reference(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                               const nn::RowContext& context) const;
  std::string not_mergeable() const override;  ///< Token routing is not.
  nn::LowRankForm low_rank(const at::Tensor& omega) const override;
  /// A_i [r/N, d_in] and B_i [d_out, r/N] of one expert: views of the parameters, without s.
  nn::LowRank expert(std::int64_t expert) const;
  nn::LowRank expert_gradient(std::int64_t expert) const;  ///< Views of their gradients. Error if there are none.
  std::int64_t expert_count() const { return experts_; }
  std::int64_t routing_parameter_count() const override;
  double operations_per_row() const override;

  bool supports_manual_backward() const override { return true; }
  std::vector<at::Tensor> trained() const override;  ///< A, B, router if there is one
  at::Tensor begin_forward(const at::Tensor& x, const at::Tensor& bias, const nn::RowContext& context,
                           at::Tensor& tape) const override;  ///< tape: A drop(x), [rows, r] or [rows, r/N]
  void finish_backward(const at::Tensor& dy, const nn::RowSource& x, const at::Tensor& tape,
                       const nn::RowContext& context, at::Tensor& dx, nn::DeltaGradients& gradients) const override;

  at::Tensor A;       ///< [r, d_in] fp32
  at::Tensor B;       ///< [d_out, r] fp32
  at::Tensor router;  ///< [N, d_in] fp32, token routing: ω = softmax(router x); else undefined

 private:
  // ω as it is used: `weights` [n, N], and for each row of the batch which of them is its own, [rows] int64.
  struct Omega {
    at::Tensor weights;  // undefined for one expert
    at::Tensor of_row;
  };
  Omega omega_of(const at::Tensor& x, const nn::RowContext& context) const;
  // Routing single: the only expert of each segment, [S]. Empty where the stacked form is needed: another routing, a
  // segment with several tasks, or expert weights that get a gradient.
  std::vector<std::int64_t> expert_of_segment(const Omega& omega, const nn::RowContext& context) const;
  at::Tensor diagonal(const Omega& omega, std::int64_t segments) const;  // s · g, [n, r]
  nn::kernels::LowRankCall call(const Omega& omega, const nn::RowContext& context) const;
  nn::kernels::DeviceLowRank device_call(const Omega& omega, const nn::RowContext& context) const;
  void finish_router(const at::Tensor& x, const at::Tensor& omega, at::Tensor domega, const nn::RowContext& context,
                     at::Tensor& dx, nn::DeltaGradients& gradients) const;
  nn::LowRank slices_of_expert(const at::Tensor& a, const at::Tensor& b, std::int64_t expert) const;
  bool trains() const { return A.requires_grad() || B.requires_grad(); }  // else backward leaves A and B out
  bool routes_tokens() const { return router.defined(); }
  bool single_;
  std::int64_t experts_;
  double scaling_;
  double dropout_;
  double balance_;
  std::int64_t gate_;
  std::uint64_t key_;
};
TORCH_MODULE(MoeLoraLinear);

/// "moelora", the kind that a configuration has unless it says otherwise.
DeltaKind moe_lora_kind();

}  // namespace moelora
