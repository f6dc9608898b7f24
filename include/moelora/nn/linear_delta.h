#pragma once
// The one virtual seam between a frozen linear and what is added to it. The graph knows only this class; adapters
// derive from it.

#include <torch/nn/module.h>

#include "moelora/nn/frozen_weight.h"
#include "moelora/nn/row_context.h"

namespace moelora::nn {

/// A low-rank update ΔW = B A, fp32, with every scale and expert weight already inside B.
struct LowRank {
  at::Tensor A;  ///< [r, d_in]
  at::Tensor B;  ///< [d_out, r]
};

class LinearDelta : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;
  /// The whole adapted linear: x W^T + bias + delta(x). x [rows, d_in]; returns [rows, d_out] in x's dtype.
  virtual at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                             const RowContext& context) = 0;
  /// The update for one expert weighting `omega` [gates, N] fp32 (undefined: no gate). Error NotMergeable unless the
  /// update is the same for every token.
  virtual LowRank low_rank(const at::Tensor& omega) const;
};

}  // namespace moelora::nn
