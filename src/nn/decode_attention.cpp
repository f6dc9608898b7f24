#include "moelora/nn/decode_attention.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"

namespace moelora::nn {
namespace {

// One head turned as apply_rotary does: pairs i with i + d/4 inside each half.
template <typename scalar>
void rotate_head(const scalar* x, const float* cos, const float* sin, std::int64_t d, float* out) {
  const auto quarter = d / 4;
  for (std::int64_t half = 0; half < d; half += 2 * quarter) {
    for (std::int64_t i = half; i < half + quarter; ++i) {
      const auto low = static_cast<float>(x[i]);
      const auto high = static_cast<float>(x[i + quarter]);
      out[i] = low * cos[i] - high * sin[i];
      out[i + quarter] = high * cos[i + quarter] + low * sin[i + quarter];
    }
  }
}

}  // namespace

at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const RotaryTables& tables,
                            const at::Tensor& keys, const at::Tensor& values, const std::vector<std::int64_t>& slots,
                            const std::vector<std::int64_t>& counts) {
  const auto rows = q.size(0);
  const auto heads = q.size(1);
  const auto d = q.size(2);
  const auto capacity = keys.size(2);
  TORCH_INTERNAL_ASSERT(q.stride(2) == 1 && k.stride(2) == 1 && v.stride(2) == 1 && d % 4 == 0);
  TORCH_INTERNAL_ASSERT(keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes());
  TORCH_INTERNAL_ASSERT(keys.scalar_type() == q.scalar_type() && values.scalar_type() == q.scalar_type());
  TORCH_INTERNAL_ASSERT(static_cast<std::int64_t>(slots.size()) == rows && slots.size() == counts.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    TORCH_INTERNAL_ASSERT(slots[row] < keys.size(0) && counts[row] < capacity);
  }
  const at::Tensor cos = tables.cos.to(at::kFloat).contiguous();
  const at::Tensor sin = tables.sin.to(at::kFloat).contiguous();
  const auto longest = rows == 0 ? 0 : *std::max_element(counts.begin(), counts.end()) + 1;
  const at::Tensor output = at::empty({rows, heads, d}, q.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, q.scalar_type(), "decode_attention", [&] {
    const auto* query = q.const_data_ptr<scalar_t>();
    const auto* key = k.const_data_ptr<scalar_t>();
    const auto* value = v.const_data_ptr<scalar_t>();
    auto* all_keys = keys.mutable_data_ptr<scalar_t>();
    auto* all_values = values.mutable_data_ptr<scalar_t>();
    auto* out = output.mutable_data_ptr<scalar_t>();
    // A head that attends to 64 rows is worth a thread.
    const auto grain = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, longest * d));
    at::parallel_for(0, rows * heads, grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> turned(2 * d), scratch((longest + 15) / 16 * 16);
      float* attended = turned.data() + d;
      for (std::int64_t task = begin; task < end; ++task) {
        const auto row = task / heads;
        const auto head = task % heads;
        const auto first = (slots[row] * heads + head) * capacity * d;
        const auto own = first + counts[row] * d;
        const float* c = cos.const_data_ptr<float>() + row * d;
        const float* s = sin.const_data_ptr<float>() + row * d;
        rotate_head(key + row * k.stride(0) + head * k.stride(1), c, s, d, turned.data());
        std::copy_n(turned.data(), d, all_keys + own);
        std::copy_n(value + row * v.stride(0) + head * v.stride(1), d, all_values + own);
        rotate_head(query + row * q.stride(0) + head * q.stride(1), c, s, d, turned.data());
        kernels::OneRowAttention call{};
        call.q = turned.data();
        call.keys = all_keys + first;
        call.values = all_values + first;
        call.stored = kernels::stored(q.scalar_type());
        call.out = attended;
        call.scratch = scratch.data();
        call.count = counts[row] + 1;
        call.d = d;
        call.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
        kernels::cpu_kernels().attend(call);
        std::copy_n(attended, d, out + task * d);
      }
    });
  });
  return output;
}

}  // namespace moelora::nn
