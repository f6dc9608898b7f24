#pragma once
// Low-rank updates of a weight [d_out, d_in], and the error of an update that is none.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "moelora/io/error.h"

namespace moelora {

/// An adapter that can't be folded into the weights or written as a LoRA: what it adds depends on each token, is no
/// change of weights at all, or belongs to a weight that others use too. Serve it unmerged.
class NotMergeable : public Error {
 public:
  using Error::Error;
};

}  // namespace moelora

namespace moelora::nn {

/// A low-rank update ΔW = B A, fp32, with every scale and expert weight already inside B.
struct LowRank {
  at::Tensor A;  ///< [r, d_in]
  at::Tensor B;  ///< [d_out, r]

  std::int64_t rank() const { return A.size(0); }
  std::int64_t numel() const { return A.numel() + B.numel(); }  ///< Of both factors.
  bool is_zero() const;                                         ///< Whether a factor is all zeros.
  at::Tensor dense() const;                                     ///< ΔW [d_out, d_in]
  at::Tensor added_to(const at::Tensor& weight) const;          ///< W + ΔW in fp32, weight of any float dtype.
};

/// The same as a linear's delta holds it: ΔW = scale · B diag(weights) A.
struct LowRankForm {
  at::Tensor A;        ///< [r, d_in]
  at::Tensor B;        ///< [d_out, r]
  at::Tensor weights;  ///< [r] fp32; undefined: all 1.
  double scale = 1.0;

  LowRank update() const;         ///< Everything inside B.
  at::Tensor weighted_B() const;  ///< B diag(weights), for formats that keep the scale apart.
};

}  // namespace moelora::nn
