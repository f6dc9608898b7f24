#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/key_value_pages.h"
#include "moelora/io/huge_pages.h"

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
  if (KeyValuePages::serve(shape, dtype, device)) {
    pages_ = std::make_unique<KeyValuePages>(shape, dtype, device);
    return;
  }
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    keys_.push_back(make_slots(sequences, capacity_));
    values_.push_back(make_slots(sequences, capacity_));
  }
}

KvCache::~KvCache() = default;

std::int64_t KvCache::capacity() const {
  return pages_ == nullptr ? capacity_ : pages_->begun() ? pages_->capacity() : 0;
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
                                      const nn::AttentionRows& attention, const nn::KeyValuePrefix& prefix) {
  const nn::Segments& segments = attention.segments;
  TORCH_INTERNAL_ASSERT(segments.count() == sequences());
  if (pages_ != nullptr) {
    return append_in_pages(layer, q, k, v, attention, prefix);
  }
  const bool prompt = sees_prompt();
  if (prompt) {
    prefix_rows_ = prefix.defined() ? prefix.key.size(-3) : 0;
  }
  std::int64_t longest = 0;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    longest = std::max(longest, lengths_[i] + segments.length(i));
  }
  reserve(prefix_rows_ + longest);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor output = prompt ? nn::prefix_lm_attention(q, k, v, attention, prefix) : at::empty_like(q);
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

at::Tensor KvCache::append_in_pages(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const nn::AttentionRows& attention, const nn::KeyValuePrefix& prefix) {
  TORCH_INTERNAL_ASSERT(!(c10::GradMode::is_enabled() && q.requires_grad()),
                        "keys and values in pages are not recorded");
  if (!sees_prompt()) {
    TORCH_INTERNAL_ASSERT(attention.segments.rows() == sequences());
    return append_row(layer, q, k, v);
  }
  if (!pages_->begun()) {
    pages_->begin(attention.segments, prefix.length());
  }
  const auto rows_of = [&](const at::Tensor& x) {
    const at::Tensor rows = x.to(dtype_).reshape({-1, shape_.kv_heads, shape_.head_dim});
    return rows.stride(2) == 1 ? rows : rows.contiguous();
  };
  if (prefix.defined()) {
    nn::kernels::store_rows(pages_->layer(layer), rows_of(prefix.key), rows_of(prefix.value), pages_->prefix_places());
  }
  nn::kernels::store_rows(pages_->layer(layer), rows_of(k), rows_of(v), pages_->prompt_places());
  return nn::prefix_lm_attention(q, k, v, attention, prefix);
}

bool KvCache::supports_append_row() const {
  return (pages_ != nullptr || device_.is_cpu()) && !c10::GradMode::is_enabled() && !sees_prompt();
}

at::Tensor KvCache::append_row(std::int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const nn::Rotary& rotary) {
  if (pages_ != nullptr) {
    pages_->reserve_next();
    const auto rows_of = [&](const at::Tensor& x) {
      const at::Tensor rows = x.to(dtype_);
      return rows.stride(2) == 1 ? rows : rows.contiguous();
    };
    return nn::kernels::decode_attention(pages_->layer(layer), pages_->counts(), pages_->most(), rows_of(q), rows_of(k),
                                         rows_of(v), rotary);
  }
  if (rotary.tables.cos.defined()) {
    return append_row(layer, nn::rotated_in_float(q, rotary), nn::rotated_in_float(k, rotary), v);
  }
  return nn::decode_attention(q, k, v, cached(layer));
}

nn::CachedSequences KvCache::cached(std::int64_t layer) {
  TORCH_INTERNAL_ASSERT(pages_ == nullptr && supports_append_row());
  std::vector<std::int64_t> counts = lengths_;
  for (std::int64_t& count : counts) {
    count += prefix_rows_;
  }
  reserve(*std::max_element(counts.begin(), counts.end()) + 1);
  return {keys_[layer], values_[layer], slots_, std::move(counts)};
}

void KvCache::advance(const nn::Segments& segments) {
  if (pages_ != nullptr && !sees_prompt()) {
    pages_->count_row(/*on_device=*/true);
  }
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
  if (pages_ != nullptr) {
    pages_->keep(sequences);
  }
}

void KvCache::reserve_next() {
  if (pages_ != nullptr && !sees_prompt()) {
    pages_->reserve_next();
  }
}

void KvCache::count_replayed_row() {
  TORCH_INTERNAL_ASSERT(pages_ != nullptr);
  pages_->count_row(/*on_device=*/false);
  for (std::int64_t& length : lengths_) {
    ++length;
  }
}

std::int64_t KvCache::recorded_form() const {
  return pages_ == nullptr ? 0 : nn::kernels::decode_splits(pages_->most());
}

}  // namespace moelora::model
