#pragma once
// Forward and backward of a frozen linear with its active delta, written out: the pieces of graphs whose blocks have a
// backward of their own. Nothing here is recorded by autograd.

#include "moelora/nn/linear.h"

namespace moelora::nn {

/// Whether the linear has a manual backward: weight and bias are frozen, and the active delta, if any, offers
/// it.
bool supports_manual_backward(const LinearImpl& linear);

/// x W^T + bias + delta(x). x [rows, d_in]; returns [rows, d_out]. `tape` is for backward.
at::Tensor manual_forward(const LinearImpl& linear, const at::Tensor& x, const RowContext& context, at::Tensor& tape);

/// The gradient for x, or for what x is an elementwise function of, [rows, d_in]; undefined unless `need_dx`. dy [rows,
/// d_out] contiguous; x gives forward's input again.
at::Tensor manual_backward(const LinearImpl& linear, const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                           const RowContext& context, bool need_dx, DeltaGradients& gradients);

/// The same for one of several linears of the same input: adds to dx [rows, d_in], which holds what the others gave;
/// undefined: not wanted. x is no elementwise function.
void add_manual_backward(const LinearImpl& linear, const at::Tensor& dy, const RowSource& x, const at::Tensor& tape,
                         const RowContext& context, at::Tensor& dx, DeltaGradients& gradients);

}  // namespace moelora::nn
