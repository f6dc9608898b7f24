#pragma once
// The one virtual seam between a frozen linear and what is added to it. The graph knows only this class; adapters
// derive from it.

#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "moelora/nn/frozen_weight.h"
#include "moelora/nn/row_context.h"
#include "moelora/nn/row_source.h"

namespace moelora::nn {

/// A low-rank update ΔW = B A, fp32, with every scale and expert weight already inside B.
struct LowRank {
  at::Tensor A;  ///< [r, d_in]
  at::Tensor B;  ///< [d_out, r]
};

/// Gradients of what a linear's delta trains, as written-out backward functions hand them on.
struct DeltaGradients {
  std::vector<at::Tensor> trained;  ///< In the order of LinearDelta::trained(); undefined: frozen.
  at::Tensor expert_weights;        ///< [gates, S, N] fp32, added to; undefined: not wanted.
};

class LinearDelta : public torch::nn::Module {
 public:
  using torch::nn::Module::Module;
  /// The adapter that it is part of; null: of none, and any context is taken.
  std::shared_ptr<const AdapterIdentity> adapter;
  /// The whole adapted linear: x W^T + bias + delta(x). x [rows, d_in]; returns [rows, d_out] in x's dtype.
  virtual at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                             const RowContext& context) = 0;
  /// The update for one expert weighting `omega` [gates, N] fp32 (undefined: no gate). Error NotMergeable unless the
  /// update is the same for every token.
  virtual LowRank low_rank(const at::Tensor& omega) const;

  // The same with a manual backward (nothing recorded by autograd), for graphs that write the backward of a whole block
  // out. A delta that offers it returns true here; a graph that meets another one falls back to forward().
  virtual bool supports_manual_backward() const { return false; }
  /// The parameters that get gradients.
  virtual std::vector<at::Tensor> trained() const { return {}; }
  /// bias + delta(x), to which the base's product x W^T is yet to be added: [rows, d_out]. `tape` receives what
  /// backward wants to know again.
  virtual at::Tensor begin_forward(const at::Tensor& x, const at::Tensor& bias, const RowContext& context,
                                   at::Tensor& tape) const;
  /// Adds the delta's part to the gradient for x, dx [rows, d_in], which holds dy W already, and multiplies it by the
  /// derivative of x where x is elementwise; dx undefined: not wanted. dy [rows, d_out] contiguous. Fills `gradients`.
  virtual void finish_backward(const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                               const RowContext& context, at::Tensor& dx, DeltaGradients& gradients) const;
};

}  // namespace moelora::nn
