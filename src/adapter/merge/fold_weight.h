#pragma once
// weight = round(source + B A), on any device and for any float dtype.

#include <ATen/core/Tensor.h>

#include <vector>

#include "moelora/nn/low_rank.h"
#include "nn/kernels/cpu/fold.h"

namespace moelora {

/// Extremes of several folds. Those of kernels on a device stay there until all are read, in one wait.
class FoldedExtremes {
 public:
  void add(const nn::kernels::FoldExtremes& extremes) { places_.push_back(extremes); }
  void add_on_device(at::Tensor extremes);              ///< [2] fp64: rounding, update
  std::vector<nn::kernels::FoldExtremes> read() const;  ///< in the order in which they came

 private:
  std::vector<nn::kernels::FoldExtremes> places_;
  std::vector<std::size_t> waiting_;  // which of them are on a device
  std::vector<at::Tensor> on_device_;
};

/// Folds an update into a weight in place; source has the weight's shape and dtype and may be the weight itself.
/// Accumulated in fp32 (weights of fp64: in fp64), rounded once. The extremes, zeros without `measure`, are added to
/// `extremes`.
void fold_weight(const at::Tensor& weight, const at::Tensor& source, const nn::LowRank& update, bool measure,
                 FoldedExtremes& extremes);

double largest_magnitude(const at::Tensor& values);

}  // namespace moelora
