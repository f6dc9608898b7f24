#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>

#include <cmath>

#include "moelora/io/error.h"

namespace moelora::model {

KvCache::KvCache(std::int64_t layers, std::int64_t sequences, std::int64_t capacity, std::int64_t heads,
                 std::int64_t head_dim, at::ScalarType dtype, at::Device device)
    : lengths_(sequences, 0), capacity_(capacity) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    keys_.push_back(at::empty({sequences, heads, capacity, head_dim}, options));
    values_.push_back(at::empty({sequences, heads, capacity, head_dim}, options));
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
    const at::Tensor keys = keys_[layer][i];  // [heads, capacity, d]
    const at::Tensor values = values_[layer][i];
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

void KvCache::advance(const nn::Segments& segments) {
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    lengths_[i] += segments.length(i);
  }
}

void KvCache::keep(const std::vector<std::int64_t>& sequences) {
  const at::Tensor index = at::tensor(sequences, at::kLong).to(keys_.front().device());
  std::vector<std::int64_t> lengths;
  for (const std::int64_t sequence : sequences) {
    lengths.push_back(lengths_[sequence]);
  }
  lengths_ = std::move(lengths);
  for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
    keys_[layer] = keys_[layer].index_select(0, index);
    values_[layer] = values_[layer].index_select(0, index);
  }
}

}  // namespace moelora::model
