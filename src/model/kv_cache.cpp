#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <numeric>

#include "moelora/io/huge_pages.h"
#include "moelora/nn/decode_attention.h"

namespace moelora::model {

KvCache::KvCache(std::int64_t layers, std::int64_t sequences, std::int64_t capacity, std::int64_t heads,
                 std::int64_t head_dim, at::ScalarType dtype, at::Device device)
    : slots_(sequences), lengths_(sequences, 0), capacity_(capacity) {
  std::iota(slots_.begin(), slots_.end(), 0);
  const auto make = [&] {
    const std::vector<std::int64_t> shape{sequences, heads, capacity, head_dim};
    return device.is_cpu() ? io::empty_on_huge_pages(shape, dtype)
                           : at::empty(shape, at::TensorOptions().dtype(dtype).device(device));
  };
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    keys_.push_back(make());
    values_.push_back(make());
  }
}

at::Tensor KvCache::append_and_attend(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const nn::Segments& segments, const nn::KeyValuePrefix& prefix) {
  TORCH_INTERNAL_ASSERT(segments.count() == sequences());
  const bool prompt = lengths_.empty() || lengths_.front() == 0;
  if (prompt) {
    prefix_rows_ = prefix.defined() ? prefix.key.size(-3) : 0;
  }
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor output = prompt ? nn::prefix_lm_attention(q, k, v, segments, prefix) : at::empty_like(q);
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto count = segments.length(i);
    const auto stored = prefix_rows_ + lengths_[i];
    TORCH_INTERNAL_ASSERT(stored + count <= capacity_ && (prompt || count == 1));
    const at::Tensor keys = keys_[layer][slots_[i]];  // [heads, capacity, d]
    const at::Tensor values = values_[layer][slots_[i]];
    if (prompt && prefix.defined()) {
      const bool own = prefix.key.dim() == 4;
      keys.narrow(1, 0, prefix_rows_).copy_((own ? prefix.key[i] : prefix.key).transpose(0, 1));
      values.narrow(1, 0, prefix_rows_).copy_((own ? prefix.value[i] : prefix.value).transpose(0, 1));
    }
    keys.narrow(1, stored, count).copy_(k.narrow(0, begin, count).transpose(0, 1));
    values.narrow(1, stored, count).copy_(v.narrow(0, begin, count).transpose(0, 1));
    if (!prompt) {
      const at::Tensor query = q[begin].unsqueeze(1) * scale;  // [heads, 1, d]
      const at::Tensor scores = at::bmm(query, keys.narrow(1, 0, stored + 1).transpose(1, 2)).to(at::kFloat);
      output[begin].copy_(
          at::bmm(at::softmax(scores, 2).to(v.scalar_type()), values.narrow(1, 0, stored + 1)).squeeze(1));
    }
  }
  return output;
}

bool KvCache::supports_append_row() const {
  return keys_.front().device().is_cpu() && !c10::GradMode::is_enabled() && !lengths_.empty() && lengths_.front() > 0;
}

at::Tensor KvCache::append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const nn::RotaryTables& tables) {
  TORCH_INTERNAL_ASSERT(supports_append_row());
  std::vector<std::int64_t> counts = lengths_;
  for (std::int64_t& count : counts) {
    count += prefix_rows_;
  }
  return nn::decode_attention(q, k, v, tables, keys_[layer], values_[layer], slots_, counts);
}

void KvCache::advance(const nn::Segments& segments) {
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    lengths_[i] += segments.length(i);
  }
}

void KvCache::keep(const std::vector<std::int64_t>& sequences) {
  std::vector<std::int64_t> slots, lengths;
  for (const std::int64_t sequence : sequences) {
    slots.push_back(slots_[sequence]);
    lengths.push_back(lengths_[sequence]);
  }
  slots_ = std::move(slots);
  lengths_ = std::move(lengths);
}

}  // namespace moelora::model
