#pragma once
// The operations of a decoding step on few rows, recorded one after the other and then computed by one team of threads
// (stages.h). CPU, fp32, no gradients. Bit for bit what the operations on tensors compute, which take longer to call
// than a small model's products take to compute.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "moelora/nn/decode_attention.h"
#include "moelora/nn/linear.h"
#include "moelora/nn/rms_norm.h"
#include "moelora/nn/rotary.h"
#include "nn/stages.h"

namespace moelora::nn {

class StagedRows {
 public:
  /// What an operation computes, [rows, width]: read by operations that are recorded while a copy of this is there.
  struct Rows {
    float* data = nullptr;
    std::int64_t rows = 0;
    std::int64_t width = 0;
    std::int64_t stride = 0;  ///< elements from row to row
    std::shared_ptr<void> memory;

    Rows columns(std::int64_t first, std::int64_t count) const { return {data + first, rows, count, stride, memory}; }
  };

  /// Whether `rows` rows can go through these: fp32 on the CPU, no active delta, and few enough rows for
  /// supports_few_rows.
  static bool takes(const LinearImpl& linear, std::int64_t rows);
  static bool takes(const RmsNormImpl& norm);

  /// x [rows, width] fp32 on the CPU.
  Rows input(const at::Tensor& x);
  /// Over the norm's width: each row, or each head of a row.
  Rows rms_norm(const RmsNormImpl& norm, const Rows& x);
  /// x := x + residual, and the norm of that. x is not an input().
  Rows add_then_rms_norm(const RmsNormImpl& norm, const Rows& x, const Rows& residual);
  /// Each linear of the same rows; takes() holds.
  std::vector<Rows> products(const std::vector<LinearImpl*>& linears, const Rows& x);
  Rows swiglu(const Rows& gate, const Rows& up);
  /// decode_attention of q and k turned by `rotary`, whose tables [rows, …] are fp32; q [rows, heads · d], k and v
  /// [rows, kv_heads · d]. The cache is fp32 and may not move before compute().
  Rows attention(const Rows& q, const Rows& k, const Rows& v, const CachedSequences& cached, const Rotary& rotary);

  /// Computes all that was recorded. Returns a copy of `result`, which like all other Rows then serves no more.
  at::Tensor compute(const Rows& result);

 private:
  struct Memory;
  Rows make(std::int64_t rows, std::int64_t width);
  Rows normalise(const RmsNormImpl& norm, const Rows& x, const Rows& added);

  Stages stages_;
  std::shared_ptr<Memory> memory_ = make_memory();
  std::vector<at::Tensor> kept_;  // what loops point into

  static std::shared_ptr<Memory> make_memory();
};

}  // namespace moelora::nn
