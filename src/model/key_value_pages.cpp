#include "model/key_value_pages.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "nn/move_together.h"

namespace moelora::model {
namespace {

constexpr std::int64_t kPageRows = device::kPageRows;

std::int64_t pages_for(std::int64_t rows) { return (rows + kPageRows - 1) / kPageRows; }

}  // namespace

bool KeyValuePages::serve(const ModelShape& shape, at::ScalarType dtype, const at::Device& device) {
  return !device.is_cpu() && nn::kernels::launcher_for(device.type()) != nullptr &&
         (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16) &&
         nn::kernels::takes_head_width(shape.head_dim);
}

KeyValuePages::KeyValuePages(const ModelShape& shape, at::ScalarType dtype, const at::Device& device)
    : shape_(shape), dtype_(dtype), device_(device) {}

void KeyValuePages::begin(const nn::Segments& segments, std::int64_t prefix_rows) {
  most_pages_ = pages_for(shape_.max_sequence_length + prefix_rows);
  const auto count = segments.count();
  for (std::int64_t i = 0; i < count; ++i) {
    sequences_.push_back({{}, prefix_rows + segments.length(i)});
  }
  // Counts follow the table: two int32 in each int64.
  buffer_ = at::empty({count * most_pages_ + (count + 1) / 2}, at::TensorOptions(at::kLong).device(device_));
  std::vector<std::int64_t> of_prompts, of_prefixes;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto first = i * most_pages_ * kPageRows;
    for (std::int64_t row = 0; row < prefix_rows; ++row) {
      of_prefixes.push_back(first + row);
    }
    for (std::int64_t row = 0; row < segments.length(i); ++row) {
      of_prompts.push_back(first + prefix_rows + row);
    }
  }
  prompt_places_ = at::tensor(of_prompts, at::kLong);
  prefix_places_ = prefix_rows > 0 ? at::tensor(of_prefixes, at::kLong) : at::Tensor();
  nn::move_together({&prompt_places_, &prefix_places_}, device_);
  reserve(kPageRows);
}

void KeyValuePages::reserve(std::int64_t more) {
  std::int64_t missing = -static_cast<std::int64_t>(free_.size());
  const auto wanted_by = [&](const Sequence& sequence) {
    const auto pages = std::min(pages_for(sequence.rows + more), most_pages_);
    return std::max<std::int64_t>(0, pages - static_cast<std::int64_t>(sequence.pages.size()));
  };
  for (const Sequence& sequence : sequences_) {
    missing += wanted_by(sequence);
  }
  if (missing > 0) {
    const auto elements = shape_.layers * 2 * shape_.kv_heads * kPageRows * shape_.head_dim;
    slabs_.push_back(at::empty({missing, elements}, at::TensorOptions(dtype_).device(device_)));
    const auto address = reinterpret_cast<std::int64_t>(slabs_.back().mutable_data_ptr());
    for (std::int64_t i = missing - 1; i >= 0; --i) {
      free_.push_back(address + i * elements * static_cast<std::int64_t>(c10::elementSize(dtype_)));
    }
  }
  for (Sequence& sequence : sequences_) {
    for (auto wanted = wanted_by(sequence); wanted > 0; --wanted) {
      sequence.pages.push_back(free_.back());
      free_.pop_back();
    }
  }
  upload();
}

void KeyValuePages::upload() {
  const auto count = static_cast<std::int64_t>(sequences_.size());
  const auto entries = count * most_pages_;
  const at::Tensor host = at::zeros({entries + (count + 1) / 2}, at::TensorOptions(at::kLong).pinned_memory(true));
  auto* address = host.mutable_data_ptr<std::int64_t>();
  std::vector<std::int32_t> counts;
  for (std::int64_t i = 0; i < count; ++i) {
    const Sequence& sequence = sequences_[static_cast<std::size_t>(i)];
    std::copy(sequence.pages.begin(), sequence.pages.end(), address + i * most_pages_);
    counts.push_back(static_cast<std::int32_t>(sequence.rows));
  }
  std::memcpy(address + entries, counts.data(), counts.size() * sizeof(std::int32_t));
  const at::Tensor used = buffer_.narrow(0, 0, host.numel());
  used.copy_(host, /*non_blocking=*/true);
  table_ = used.narrow(0, 0, entries).view({count, most_pages_});
  counts_ = used.narrow(0, entries, (count + 1) / 2).view(at::kInt).narrow(0, 0, count);
}

void KeyValuePages::reserve_next() {
  const auto is_full = [](const Sequence& sequence) {
    return sequence.rows >= static_cast<std::int64_t>(sequence.pages.size()) * kPageRows;
  };
  if (std::any_of(sequences_.begin(), sequences_.end(), is_full)) {
    reserve(kPageRows);
  }
}

void KeyValuePages::count_row(bool on_device) {
  for (Sequence& sequence : sequences_) {
    ++sequence.rows;
  }
  if (on_device) {
    counts_.add_(1);
  }
}

void KeyValuePages::keep(const std::vector<std::int64_t>& sequences) {
  std::vector<Sequence> kept;
  for (const std::int64_t i : sequences) {
    kept.push_back(std::move(sequences_[static_cast<std::size_t>(i)]));
    sequences_[static_cast<std::size_t>(i)].pages.clear();
  }
  for (const Sequence& gone : sequences_) {
    free_.insert(free_.end(), gone.pages.begin(), gone.pages.end());
  }
  sequences_ = std::move(kept);
  upload();
}

nn::kernels::PagedKeysValues KeyValuePages::layer(std::int64_t layer) const {
  return {table_, dtype_, layer, shape_.kv_heads, shape_.head_dim};
}

std::int64_t KeyValuePages::most() const {
  std::int64_t most = 0;
  for (const Sequence& sequence : sequences_) {
    most = std::max(most, sequence.rows);
  }
  return most;
}

std::int64_t KeyValuePages::capacity() const {
  std::int64_t least = most_pages_;
  for (const Sequence& sequence : sequences_) {
    least = std::min(least, static_cast<std::int64_t>(sequence.pages.size()));
  }
  return least * kPageRows;
}

}  // namespace moelora::model
