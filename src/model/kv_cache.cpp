#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moelora/io/huge_pages.h"
#include "moelora/nn/decode_attention.h"

namespace moelora::model {

KvCache::KvCache(const ModelShape& shape, std::int64_t sequences, std::int64_t capacity, at::ScalarType dtype,
                 at::Device device)
    : shape_(shape),
      dtype_(dtype),
      device_(device),
      slots_(sequences),
      lengths_(sequences, 0),
      capacity_(std::max<std::int64_t>(capacity, 1)) {
  std::iota(slots_.begin(), slots_.end(), 0);
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(make_slots(sequences, capacity_));
    values_.push_back(make_slots(sequences, capacity_));
  }
}

at::Tensor KvCache::make_slots(std::int64_t slots, std::int64_t capacity) const {
  const std::vector<std::int64_t> sizes{slots, shape_.kv_heads, capacity, shape_.head_dim};
  return device_.is_cpu() ? io::empty_on_huge_pages(sizes, dtype_)
                          : at::empty(sizes, at::TensorOptions().dtype(dtype_).device(device_));
}

// All layers at once, and with all that a slot holds: those that have appended this forward's rows keep them.
void KvCache::reserve(std::int64_t rows) {
  if (rows <= capacity_) {
    return;
  }
  const auto most = shape_.max_sequence_length + prefix_rows_;  // more than this no sequence has
  const auto capacity = std::max(rows, std::min(2 * capacity_, most));
  for (std::vector<at::Tensor>* all : {&keys_, &values_}) {
    for (at::Tensor& layer : *all) {
      const at::Tensor larger = make_slots(sequences(), capacity);
      for (std::int64_t i = 0; i < sequences(); ++i) {
        larger[i].narrow(1, 0, capacity_).copy_(layer[slots_[i]]);
      }
      layer = larger;
    }
  }
  std::iota(slots_.begin(), slots_.end(), 0);
  capacity_ = capacity;
}

at::Tensor KvCache::append_and_attend(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const nn::Segments& segments, const nn::KeyValuePrefix& prefix) {
  TORCH_INTERNAL_ASSERT(segments.count() == sequences());
  const bool prompt = lengths_.empty() || lengths_.front() == 0;
  if (prompt) {
    prefix_rows_ = prefix.defined() ? prefix.key.size(-3) : 0;
  }
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    longest = std::max(longest, lengths_[i] + segments.length(i));
  }
  reserve(prefix_rows_ + longest);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor output = prompt ? nn::prefix_lm_attention(q, k, v, segments, prefix) : at::empty_like(q);
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto count = segments.length(i);
    const auto stored = prefix_rows_ + lengths_[i];
    TORCH_INTERNAL_ASSERT(prompt || count == 1);
    const at::Tensor keys = keys_[layer][slots_[i]];  // [kv_heads, capacity, d]
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
      const at::Tensor seen_keys = nn::repeat_heads(keys.narrow(1, 0, stored + 1), 0, query.size(0));
      const at::Tensor seen_values = nn::repeat_heads(values.narrow(1, 0, stored + 1), 0, query.size(0));
      const at::Tensor scores = at::bmm(query, seen_keys.transpose(1, 2)).to(at::kFloat);
      output[begin].copy_(at::bmm(at::softmax(scores, 2).to(v.scalar_type()), seen_values).squeeze(1));
    }
  }
  return output;
}

bool KvCache::supports_append_row() const {
  return keys_.front().device().is_cpu() && !c10::GradMode::is_enabled() && !lengths_.empty() && lengths_.front() > 0;
}

at::Tensor KvCache::append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  TORCH_INTERNAL_ASSERT(supports_append_row());
  std::vector<std::int64_t> counts = lengths_;
  for (std::int64_t& count : counts) {
    count += prefix_rows_;
  }
  reserve(*std::max_element(counts.begin(), counts.end()) + 1);
  return nn::decode_attention(q, k, v, keys_[layer], values_[layer], slots_, counts);
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
