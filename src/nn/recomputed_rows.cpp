#include "moelora/nn/recomputed_rows.h"

#include "moelora/nn/swiglu.h"
#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora::nn {

RmsNormalisedRows::RmsNormalisedRows(RmsNorm norm, at::Tensor x, at::Tensor rstd)
    : norm_(std::move(norm)), x_(std::move(x)), rstd_(std::move(rstd)) {}

at::Tensor RmsNormalisedRows::all() const {
  if (!all_.defined()) {
    all_ = rms_norm_again(*norm_, x_, rstd_);
  }
  return all_;
}

void RmsNormalisedRows::some(std::int64_t begin, std::int64_t count, float* out) const {
  const auto width = x_.size(1);
  const auto* x = x_.const_data_ptr<float>();
  const auto* rstd = rstd_.const_data_ptr<float>();
  const auto* weight = norm_->weight.const_data_ptr<float>();
  for (std::int64_t row = begin; row < begin + count; ++row, out += width) {
    kernels::cpu_kernels().rms_normalise_row(x + row * width, rstd[row], weight, out, width);
  }
}

at::Tensor SwiGluRows::all() const { return swiglu(gate_, up_); }

void SwiGluRows::some(std::int64_t begin, std::int64_t count, float* out) const {
  const auto width = gate_.size(1);
  const auto* gate = gate_.const_data_ptr<float>();
  const auto* up = up_.const_data_ptr<float>();
  for (std::int64_t row = begin; row < begin + count; ++row, out += width) {
    kernels::cpu_kernels().swiglu_row(gate + row * gate_.stride(0), up + row * up_.stride(0), out, width);
  }
}

}  // namespace moelora::nn
