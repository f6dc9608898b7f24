#pragma once
// One new row of each of several sequences beside the rows that a cache holds, on plain pointers.

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "moelora/nn/decode_attention.h"
#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/stored_dtype.h"

namespace moelora::nn {

/// `scalar` is the cache's type.
template <typename scalar>
class CachedHeads {
 public:
  CachedHeads(const CachedSequences& cached, std::int64_t heads)
      : cached_(cached),
        keys_(cached.keys.mutable_data_ptr<scalar>()),
        values_(cached.values.mutable_data_ptr<scalar>()),
        stored_(kernels::stored(cached.keys.scalar_type())),
        heads_(heads),
        kv_heads_(cached.keys.size(1)),
        capacity_(cached.keys.size(2)),
        d_(cached.keys.size(3)),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(d_)))) {
    TORCH_INTERNAL_ASSERT(cached.keys.is_contiguous() && cached.values.is_contiguous() &&
                          cached.keys.sizes() == cached.values.sizes() &&
                          cached.keys.scalar_type() == cached.values.scalar_type() && heads % kv_heads_ == 0 &&
                          cached.slots.size() == cached.counts.size());
    for (std::size_t row = 0; row < cached.slots.size(); ++row) {
      TORCH_INTERNAL_ASSERT(cached.slots[row] < cached.keys.size(0) && cached.counts[row] < capacity_);
      longest_ = std::max(longest_, cached.counts[row] + 1);
    }
  }

  std::int64_t rows() const { return static_cast<std::int64_t>(cached_.slots.size()); }
  std::int64_t kv_heads() const { return kv_heads_; }
  std::int64_t d() const { return d_; }
  /// Rows that the longest sequence attends to, the new one included.
  std::int64_t longest() const { return longest_; }
  /// Elements that attend() needs to work with.
  std::int64_t scratch_size() const { return (longest_ + 15) / 16 * 16; }

  /// Where the new row's key and value [d] belong.
  scalar* key(std::int64_t row, std::int64_t kv_head) const { return keys_ + place(row, kv_head); }
  scalar* value(std::int64_t row, std::int64_t kv_head) const { return values_ + place(row, kv_head); }

  /// q [d] of one of the query's heads → out [d]; the new row's key and value are in their place.
  void attend(std::int64_t row, std::int64_t head, const float* q, float* scratch, float* out) const {
    const auto first = slot(row, head / (heads_ / kv_heads_));
    kernels::OneRowAttention call{};
    call.q = q;
    call.keys = keys_ + first;
    call.values = values_ + first;
    call.stored = stored_;
    call.out = out;
    call.scratch = scratch;
    call.count = cached_.counts[static_cast<std::size_t>(row)] + 1;
    call.d = d_;
    call.scale = scale_;
    kernels::cpu_kernels().attend(call);
  }

 private:
  std::int64_t slot(std::int64_t row, std::int64_t kv_head) const {
    return (cached_.slots[static_cast<std::size_t>(row)] * kv_heads_ + kv_head) * capacity_ * d_;
  }
  std::int64_t place(std::int64_t row, std::int64_t kv_head) const {
    return slot(row, kv_head) + cached_.counts[static_cast<std::size_t>(row)] * d_;
  }

  CachedSequences cached_;
  scalar* keys_;
  scalar* values_;
  kernels::Stored stored_;
  std::int64_t heads_, kv_heads_, capacity_, d_;
  float scale_;
  std::int64_t longest_ = 0;
};

}  // namespace moelora::nn
