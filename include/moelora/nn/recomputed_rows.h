#pragma once
// What the linears of a decoder's block of the Llama kind take in, computed again from what is stored anyway.

#include "moelora/nn/rms_norm.h"
#include "moelora/nn/row_source.h"

namespace moelora::nn {

/// The output of a root mean square normalisation, from its input x [rows, width] and statistic [rows, 1].
class RmsNormalisedRows : public RowSource {
 public:
  RmsNormalisedRows(RmsNorm norm, at::Tensor x, at::Tensor rstd);
  at::Tensor all() const override;  ///< Made once, for several linears of the same input.
  void some(std::int64_t begin, std::int64_t count, float* out) const override;

 private:
  RmsNorm norm_;
  at::Tensor x_, rstd_;
  mutable at::Tensor all_;
};

/// SwiGLU of gate and up [rows, width], both with a unit last stride. No elementwise function of one tensor: the
/// gradient that manual_backward hands on is that of the rows themselves, to go through swiglu_backward.
class SwiGluRows : public RowSource {
 public:
  SwiGluRows(at::Tensor gate, at::Tensor up) : gate_(std::move(gate)), up_(std::move(up)) {}
  at::Tensor all() const override;
  void some(std::int64_t begin, std::int64_t count, float* out) const override;

 private:
  at::Tensor gate_, up_;
};

}  // namespace moelora::nn
