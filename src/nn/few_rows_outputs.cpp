#include "nn/few_rows_outputs.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"

namespace moelora::nn {
namespace {

// Elements of the weight that are worth a thread of their own.
constexpr std::int64_t kThreadElements = 16384;

}  // namespace

std::int64_t few_rows_least(std::int64_t d_in) {
  return std::max<std::int64_t>(1, kThreadElements / std::max<std::int64_t>(d_in, 1));
}

kernels::FewRows few_rows_call(const float* x, std::int64_t rows, const WeightAndBias& weight, float* y) {
  kernels::FewRows call{};
  call.x = x;
  call.weight = weight.weight.const_data_ptr();
  call.stored = kernels::stored(weight.weight.scalar_type());
  call.bias = weight.bias.defined() ? weight.bias.const_data_ptr<float>() : nullptr;
  call.y = y;
  call.rows = rows;
  call.d_in = weight.weight.size(1);
  call.d_out = weight.weight.size(0);
  return call;
}

void FewRowsOutputs::add(const kernels::FewRows& product) {
  TORCH_INTERNAL_ASSERT(products_.empty() || product.d_in == products_.front().d_in);
  products_.push_back(product);
  ends_.push_back(count() + product.d_out);
}

void FewRowsOutputs::operator()(std::int64_t begin, std::int64_t end) const {
  for (std::size_t i = 0; i < products_.size(); ++i) {
    const auto first = ends_[i] - products_[i].d_out;
    const auto from = std::max(begin, first);
    const auto to = std::min(end, ends_[i]);
    if (from < to) {
      kernels::cpu_kernels().few_rows(products_[i], from - first, to - first);
    }
  }
}

void FewRowsOutputs::add_to(Stages& stages) const {
  if (!products_.empty()) {
    stages.add(count(), few_rows_least(products_.front().d_in), *this);
  }
}

}  // namespace moelora::nn
