#include "moelora/nn/decode_attention.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"

namespace moelora::nn {

at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& keys,
                            const at::Tensor& values, const std::vector<std::int64_t>& slots,
                            const std::vector<std::int64_t>& counts) {
  const auto rows = q.size(0);
  const auto heads = q.size(1);
  const auto d = q.size(2);
  const auto kv_heads = keys.size(1);
  const auto capacity = keys.size(2);
  TORCH_INTERNAL_ASSERT(k.size(1) == kv_heads && v.size(1) == kv_heads && heads % kv_heads == 0);
  TORCH_INTERNAL_ASSERT(keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes());
  TORCH_INTERNAL_ASSERT(keys.scalar_type() == values.scalar_type());
  TORCH_INTERNAL_ASSERT(static_cast<std::int64_t>(slots.size()) == rows && slots.size() == counts.size());
  const auto dtype = keys.scalar_type();
  const at::Tensor queries = q.to(at::kFloat);
  const at::Tensor new_keys = k.to(dtype);
  const at::Tensor new_values = v.to(dtype);
  TORCH_INTERNAL_ASSERT(queries.stride(2) == 1 && new_keys.stride(2) == 1 && new_values.stride(2) == 1);
  for (std::int64_t row = 0; row < rows; ++row) {
    TORCH_INTERNAL_ASSERT(slots[row] < keys.size(0) && counts[row] < capacity);
  }
  const auto longest = rows == 0 ? 0 : *std::max_element(counts.begin(), counts.end()) + 1;
  const at::Tensor output = at::empty({rows, heads, d}, keys.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "decode_attention", [&] {
    const auto* query = queries.const_data_ptr<float>();
    const auto* key = new_keys.const_data_ptr<scalar_t>();
    const auto* value = new_values.const_data_ptr<scalar_t>();
    auto* all_keys = keys.mutable_data_ptr<scalar_t>();
    auto* all_values = values.mutable_data_ptr<scalar_t>();
    auto* out = output.mutable_data_ptr<scalar_t>();
    const auto slot_of = [&](std::int64_t row, std::int64_t kv_head) {
      return (slots[row] * kv_heads + kv_head) * capacity * d;
    };
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t head = 0; head < kv_heads; ++head) {
        const auto own = slot_of(row, head) + counts[row] * d;
        std::copy_n(key + row * new_keys.stride(0) + head * new_keys.stride(1), d, all_keys + own);
        std::copy_n(value + row * new_values.stride(0) + head * new_values.stride(1), d, all_values + own);
      }
    }
    // A head that attends to 64 rows is worth a thread.
    const auto grain = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, longest * d));
    at::parallel_for(0, rows * heads, grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> attended(d), scratch((longest + 15) / 16 * 16);
      for (std::int64_t task = begin; task < end; ++task) {
        const auto row = task / heads;
        const auto head = task % heads;
        const auto first = slot_of(row, head / (heads / kv_heads));
        kernels::OneRowAttention call{};
        call.q = query + row * queries.stride(0) + head * queries.stride(1);
        call.keys = all_keys + first;
        call.values = all_values + first;
        call.stored = kernels::stored(dtype);
        call.out = attended.data();
        call.scratch = scratch.data();
        call.count = counts[row] + 1;
        call.d = d;
        call.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)));
        kernels::cpu_kernels().attend(call);
        std::copy_n(attended.data(), d, out + task * d);
      }
    });
  });
  return output;
}

}  // namespace moelora::nn
