#include "moelora/nn/few_rows.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "nn/few_rows_outputs.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"
#include "nn/kernels/cuda/few_rows.h"
#include "nn/stages.h"

namespace moelora::nn {
namespace {

// Elements of x from which LibTorch's blocked product wins: x no longer stays in the inner caches.
constexpr std::int64_t kMostElements = std::int64_t{48} * 1024;

// Calls into LibTorch cost a step of decoding as much as small products do.
at::Tensor as_type(const at::Tensor& x, at::ScalarType type) { return x.scalar_type() == type ? x : x.to(type); }
at::Tensor as_fp32(const at::Tensor& x) {
  const at::Tensor converted = as_type(x, at::kFloat);
  return converted.is_contiguous() ? converted : converted.contiguous();
}

// Outputs of d_in products each, on several threads.
void run_outputs(std::int64_t count, std::int64_t d_in, Stages::Loop loop) {
  Stages stages;
  stages.add(count, few_rows_least(d_in), std::move(loop));
  stages.run();
}

}  // namespace

bool supports_few_rows(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool gradient = x.requires_grad() || weight.requires_grad() || (bias.defined() && bias.requires_grad());
  if (gradient && c10::GradMode::is_enabled()) {
    return false;
  }
  if (!x.is_cpu()) {
    return kernels::takes_few_rows_product(x, weight) && (!bias.defined() || bias.scalar_type() == x.scalar_type());
  }
  return x.dim() == 2 && kernels::is_stored(x.scalar_type()) && supports_few_rows(x.size(0), weight) &&
         weight.size(1) == x.size(1);
}

bool supports_few_rows(std::int64_t rows, const at::Tensor& weight) {
  return weight.is_cpu() && weight.dim() == 2 && rows >= 1 && rows <= kernels::cpu_kernels().most_rows &&
         rows * weight.size(1) <= kMostElements && kernels::is_stored(weight.scalar_type()) && weight.is_contiguous();
}

at::Tensor few_rows_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& v,
                            const at::Tensor& b, std::optional<at::ScalarType> dtype,
                            const std::vector<std::int64_t>& columns) {
  if (!x.is_cpu()) {
    TORCH_INTERNAL_ASSERT(columns.empty() && dtype.value_or(x.scalar_type()) == x.scalar_type());
    return kernels::few_rows_product(x, weight, bias, v, b);
  }
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.size(1) == weight.size(1) && weight.is_contiguous());
  TORCH_INTERNAL_ASSERT(
      v.defined() == b.defined() &&
      (!v.defined() || (v.is_contiguous() && b.is_contiguous() && v.scalar_type() == at::kFloat &&
                        b.scalar_type() == at::kFloat && v.size(0) == x.size(0) && b.size(0) == weight.size(0) &&
                        (columns.empty() ? v.size(1) == b.size(1) : v.size(1) <= b.size(1)))));
  TORCH_INTERNAL_ASSERT(columns.empty() || (v.defined() && static_cast<std::int64_t>(columns.size()) == x.size(0)));
  const at::Tensor input = as_fp32(x);
  const at::Tensor added = bias.defined() ? as_fp32(bias) : at::Tensor();
  at::Tensor y = at::empty({x.size(0), weight.size(0)}, at::TensorOptions(at::kFloat));
  kernels::FewRows call =
      few_rows_call(input.const_data_ptr<float>(), x.size(0), {weight, added}, y.mutable_data_ptr<float>());
  if (v.defined()) {
    call.v = v.const_data_ptr<float>();
    call.b = b.const_data_ptr<float>();
    call.rank = v.size(1);
    call.stride_b = b.size(1);
    if (std::adjacent_find(columns.begin(), columns.end(), std::not_equal_to<>()) != columns.end()) {
      call.columns = columns.data();
    } else if (!columns.empty()) {
      call.b += columns.front();  // the same for all
    }
  }
  run_outputs(call.d_out, call.d_in,
              [&](std::int64_t begin, std::int64_t end) { kernels::cpu_kernels().few_rows(call, begin, end); });
  return as_type(y, dtype.value_or(x.scalar_type()));
}

std::vector<at::Tensor> few_rows_products(const at::Tensor& x, const std::vector<WeightAndBias>& weights) {
  const at::Tensor input = as_fp32(x);
  std::vector<at::Tensor> outputs;
  std::vector<WeightAndBias> converted;  // kept alive
  FewRowsOutputs all;
  for (const WeightAndBias& of : weights) {
    TORCH_INTERNAL_ASSERT(of.weight.is_contiguous() && of.weight.size(1) == x.size(1));
    converted.push_back({of.weight, of.bias.defined() ? as_fp32(of.bias) : at::Tensor()});
    outputs.push_back(at::empty({x.size(0), of.weight.size(0)}, at::TensorOptions(at::kFloat)));
    all.add(few_rows_call(input.const_data_ptr<float>(), x.size(0), converted.back(),
                          outputs.back().mutable_data_ptr<float>()));
  }
  Stages stages;
  all.add_to(stages);
  stages.run();
  for (at::Tensor& output : outputs) {
    output = as_type(output, x.scalar_type());
  }
  return outputs;
}

at::Tensor few_rows_own_product(const at::Tensor& x, const at::Tensor& weight,
                                const std::vector<std::int64_t>& first_rows, std::int64_t count) {
  TORCH_INTERNAL_ASSERT(x.dim() == 2 && x.size(1) == weight.size(1) && weight.is_contiguous() &&
                        static_cast<std::int64_t>(first_rows.size()) == x.size(0));
  const at::Tensor input = as_fp32(x);
  at::Tensor y = at::empty({x.size(0), count}, at::TensorOptions(at::kFloat));
  const auto* elements = static_cast<const char*>(weight.const_data_ptr());
  kernels::FewRows all{};
  all.stored = kernels::stored(weight.scalar_type());
  all.rows = 1;
  all.d_in = x.size(1);
  all.d_out = count;
  run_outputs(y.numel(), all.d_in, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const auto row = begin / count;
      const auto stop = std::min(end, (row + 1) * count);
      kernels::FewRows call = all;
      call.x = input.const_data_ptr<float>() + row * all.d_in;
      call.weight = elements + first_rows[static_cast<std::size_t>(row)] * all.d_in * weight.element_size();
      call.y = y.mutable_data_ptr<float>() + row * count;
      kernels::cpu_kernels().few_rows(call, begin - row * count, stop - row * count);
      begin = stop;
    }
  });
  return y;
}

}  // namespace moelora::nn
