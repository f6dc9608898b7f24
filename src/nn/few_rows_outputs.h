#pragma once
// The products of the same few rows with several weights, as one loop over the outputs of all of them.

#include <cstdint>
#include <vector>

#include "moelora/nn/few_rows.h"
#include "nn/kernels/cpu/few_rows.h"
#include "nn/stages.h"

namespace moelora::nn {

class FewRowsOutputs {
 public:
  void add(const kernels::FewRows& product);
  std::int64_t count() const { return ends_.empty() ? 0 : ends_.back(); }
  /// Computes outputs begin … end - 1, all weights' counted through.
  void operator()(std::int64_t begin, std::int64_t end) const;
  /// As the next loop of `stages`.
  void add_to(Stages& stages) const;

 private:
  std::vector<kernels::FewRows> products_;
  std::vector<std::int64_t> ends_;  // of each weight's outputs
};

/// The least number of outputs, of d_in products each, that is worth a thread of its own.
std::int64_t few_rows_least(std::int64_t d_in);

/// y = x W^T + bias of rows that lie close together. All fp32 but the weight; nothing is converted.
kernels::FewRows few_rows_call(const float* x, std::int64_t rows, const WeightAndBias& weight, float* y);

}  // namespace moelora::nn
