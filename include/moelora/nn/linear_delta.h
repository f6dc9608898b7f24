#pragma once
// The one virtual seam between a frozen linear and what is added to it. The graph knows only this class; adapters
// derive from it. So does everything that handles adapters (files, merging, counting, moving, printing): it sees a
// delta's tensors by name and its low-rank form, never the members of a certain kind of delta.

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "moelora/nn/frozen_weight.h"
#include "moelora/nn/low_rank.h"
#include "moelora/nn/row_context.h"
#include "moelora/nn/row_source.h"

namespace moelora::nn {

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
  /// The whole adapted linear: x W^T + bias + delta(x). x [rows, d_in]; returns [rows, d_out] in x's dtype. Where no
  /// gradient is wanted, few rows (decoding) may round differently (FrozenWeight::few_rows).
  virtual at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                             const RowContext& context) = 0;

  // What it holds.

  /// Its registered parameters, then its buffers, by name: what an adapter's file keeps of this linear.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;
  at::Tensor tensor(const std::string& name) const;  ///< One of them. Error naming those that there are.
  at::Device device() const;                         ///< Of its tensors; the CPU if it has none.
  std::int64_t parameter_count() const;
  /// Those of parameter_count() that choose among experts, as a token router's.
  virtual std::int64_t routing_parameter_count() const { return 0; }
  /// Floating-point operations of forward and backward for each row, to plan with. Here three products with each
  /// parameter: forward, gradient of the parameter, gradient of x.
  virtual double operations_per_row() const { return 6.0 * static_cast<double>(parameter_count()); }
  /// Initial values, drawn from the adapter's generator. Here none: they are those of the constructor.
  virtual void reset_parameters(at::Generator) {}

  // How it is folded into the weight.

  /// What keeps it from being one matrix that is added to the weight, as the end of "the update of 'NAME' …"; empty:
  /// nothing does, and low_rank() gives the matrix.
  virtual std::string not_mergeable() const { return "offers no matrix to add to the weight"; }
  void require_mergeable() const;  ///< Error NotMergeable with that reason.
  /// The update for one expert weighting `omega` [gates, N] fp32 (undefined: no gate); detached. Error NotMergeable.
  virtual LowRankForm low_rank(const at::Tensor& omega) const;

  // The same as forward() with a manual backward (nothing recorded by autograd), for graphs that write the backward of
  // a whole block out. A delta that offers it returns true here; a graph that meets another one falls back to
  // forward().

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
