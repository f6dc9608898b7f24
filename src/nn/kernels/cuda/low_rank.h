#pragma once
// The low-rank update of rows on a device: three launches forward with the frozen product, six backward, no temporaries
// as wide as a row. The CPU's twin: kernels/cpu/low_rank_rows.h.

#include <vector>

#include "moelora/nn/row_source.h"
#include "nn/kernels/cuda/code/dropout.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// All tensors on one device. A row's u = A drop(x) is multiplied with `scaling` and with its segment's expert weights.
struct DeviceLowRank {
  at::Tensor A;               ///< [r, d_in] fp32
  at::Tensor B;               ///< [d_out, r] fp32
  at::Tensor omega;           ///< [segments, N] fp32 contiguous; undefined: one expert
  at::Tensor segment_of_row;  ///< [rows] int64; undefined: each row is a segment
  double scaling = 1.0;
  device::KeyedMask mask{nullptr, nullptr, 0, 0, 1.0f};  ///< device_mask (dropout.h)
  bool trains = true;                                    ///< Whether A and B get gradients.
};

/// Whether these are on one device with kernels, the factors in fp32.
bool supports_device_low_rank(const at::Tensor& x, const at::Tensor& A, const at::Tensor& B);

/// y = bias + B (w ⊙ u), to which the frozen product is to be added. x [rows, d_in] fp32, fp16 or bf16; bias [d_out] of
/// that type or undefined. Returns y [rows, d_out] in x's type; fills u [rows, r] fp32. Two launches.
at::Tensor low_rank_forward(const DeviceLowRank& call, const at::Tensor& x, const at::Tensor& bias, at::Tensor& u);

struct FactorGradients {
  at::Tensor A;  ///< [r, d_in] fp32; both undefined unless the call trains
  at::Tensor B;  ///< [d_out, r] fp32
};

/// dy [rows, d_out]; x, u: of the forward. dx [rows, d_in] contiguous in dy's type is added to, and multiplied by the
/// derivative of x where x is elementwise; undefined: not wanted. domega: the gradient of call.omega, contiguous,
/// added to; undefined: not wanted. Four launches, one more for domega.
FactorGradients low_rank_backward(const DeviceLowRank& call, const at::Tensor& dy, const RowSource& x,
                                  const at::Tensor& u, at::Tensor& dx, const at::Tensor& domega = {});

std::vector<KernelInfo> low_rank_kernels();

}  // namespace moelora::nn::kernels
