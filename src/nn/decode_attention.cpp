#include "moelora/nn/decode_attention.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "nn/cached_heads.h"

namespace moelora::nn {

at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const CachedSequences& cached) {
  const auto rows = q.size(0);
  const auto heads = q.size(1);
  const auto d = q.size(2);
  const auto dtype = cached.keys.scalar_type();
  const at::Tensor queries = q.to(at::kFloat);
  const at::Tensor new_keys = k.to(dtype);
  const at::Tensor new_values = v.to(dtype);
  TORCH_INTERNAL_ASSERT(queries.stride(2) == 1 && new_keys.stride(2) == 1 && new_values.stride(2) == 1);
  at::Tensor output = at::empty({rows, heads, d}, cached.keys.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "decode_attention", [&] {
    const CachedHeads<scalar_t> all(cached, heads);
    TORCH_INTERNAL_ASSERT(all.rows() == rows && all.d() == d && k.size(1) == all.kv_heads() &&
                          v.size(1) == all.kv_heads());
    const auto* query = queries.const_data_ptr<float>();
    const auto* key = new_keys.const_data_ptr<scalar_t>();
    const auto* value = new_values.const_data_ptr<scalar_t>();
    auto* out = output.mutable_data_ptr<scalar_t>();
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t head = 0; head < all.kv_heads(); ++head) {
        std::copy_n(key + row * new_keys.stride(0) + head * new_keys.stride(1), d, all.key(row, head));
        std::copy_n(value + row * new_values.stride(0) + head * new_values.stride(1), d, all.value(row, head));
      }
    }
    // A head that attends to 64 rows is worth a thread.
    const auto grain = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, all.longest() * d));
    at::parallel_for(0, rows * heads, grain, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> attended(d), scratch(all.scratch_size());
      for (std::int64_t task = begin; task < end; ++task) {
        const auto row = task / heads;
        const auto head = task % heads;
        all.attend(row, head, query + row * queries.stride(0) + head * queries.stride(1), scratch.data(),
                   attended.data());
        std::copy_n(attended.data(), d, out + task * d);
      }
    });
  });
  return output;
}

}  // namespace moelora::nn
