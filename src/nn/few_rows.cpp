#include "moelora/nn/few_rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "nn/kernels/row_kernels.h"
#include "nn/kernels/stored.h"

namespace moelora::nn {
namespace {

// Numbers of the weight that are worth a thread of their own.
constexpr std::int64_t kThreadNumbers = 16384;

// Numbers of x from which LibTorch's blocked product wins: x no longer stays in the inner caches.
constexpr std::int64_t kMostNumbers = 48 * 1024;

// Bytes of the weight that rows with different columns of b pass over in turn: they stay in the inner caches.
constexpr std::int64_t kPieceBytes = 64 * 1024;

at::Tensor as_fp32(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }

// Outputs first, … last - 1 where each row has columns of b for itself: neighbours with the same ones go together.
void product_by_columns(const kernels::FewRows& call, const std::vector<std::int64_t>& columns, std::int64_t weight_row,
                        std::int64_t first, std::int64_t last) {
  const std::int64_t piece = std::max<std::int64_t>(8, kPieceBytes / weight_row);
  const auto at_once = std::equal(columns.begin() + 1, columns.end(), columns.begin()) ? last - first : piece;
  for (std::int64_t output = first; output < last; output += at_once) {
    for (std::int64_t row = 0, end = 0; row < call.rows; row = end) {
      for (end = row + 1; end < call.rows && columns[end] == columns[row];) {
        ++end;
      }
      kernels::FewRows part = call;
      part.x += row * call.d_in;
      part.v += row * call.rank;
      part.b += columns[row];
      part.y += row * call.d_out;
      part.rows = end - row;
      kernels::row_kernels().product(part, output, std::min(output + at_once, last));
    }
  }
}

}  // namespace

bool few_rows_serves(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool gradient = x.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad());
  return x.device().is_cpu() && weight.device().is_cpu() && x.dim() == 2 && x.size(0) >= 1 &&
         x.size(0) <= kernels::row_kernels().most_rows && x.numel() <= kMostNumbers &&
         kernels::is_stored(x.scalar_type()) && kernels::is_stored(weight.scalar_type()) && weight.dim() == 2 &&
         weight.size(1) == x.size(1) && weight.is_contiguous() && !(gradient && c10::GradMode::is_enabled());
}

at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& v,
                            const at::Tensor& b, std::optional<at::ScalarType> dtype,
                            const std::vector<std::int64_t>& columns) {
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.size(1) == weight.size(1) && weight.is_contiguous());
  TORCH_INTERNAL_ASSERT(
      v.defined() == b.defined() &&
      (!v.defined() || (v.is_contiguous() && b.is_contiguous() && v.scalar_type() == at::kFloat &&
                        b.scalar_type() == at::kFloat && v.size(0) == x.size(0) && b.size(0) == weight.size(0) &&
                        (columns.empty() ? v.size(1) == b.size(1) : v.size(1) <= b.size(1)))));
  TORCH_INTERNAL_ASSERT(columns.empty() || (v.defined() && static_cast<std::int64_t>(columns.size()) == x.size(0)));
  const at::Tensor input = as_fp32(x);
  const at::Tensor added = bias.defined() ? as_fp32(bias) : at::Tensor();
  const at::Tensor y = at::empty({x.size(0), weight.size(0)}, at::TensorOptions(at::kFloat));
  kernels::FewRows call{};
  call.x = input.const_data_ptr<float>();
  call.weight = weight.const_data_ptr();
  call.stored = kernels::stored(weight.scalar_type());
  if (v.defined()) {
    call.v = v.const_data_ptr<float>();
    call.b = b.const_data_ptr<float>();
    call.rank = v.size(1);
    call.stride_b = b.size(1);
  }
  call.bias = added.defined() ? added.const_data_ptr<float>() : nullptr;
  call.y = y.mutable_data_ptr<float>();
  call.rows = x.size(0);
  call.d_in = x.size(1);
  call.d_out = weight.size(0);
  const auto grain = std::max<std::int64_t>(1, kThreadNumbers / std::max<std::int64_t>(call.d_in, 1));
  at::parallel_for(0, call.d_out, grain, [&](std::int64_t begin, std::int64_t end) {
    if (columns.empty()) {
      kernels::row_kernels().product(call, begin, end);
    } else {
      product_by_columns(call, columns, call.d_in * weight.element_size(), begin, end);
    }
  });
  return y.to(dtype.value_or(x.scalar_type()));
}

}  // namespace moelora::nn
