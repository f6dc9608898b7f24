#include "moelora/nn/row_context.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <numeric>

#include "moelora/io/error.h"

namespace moelora::nn {

Segments Segments::from_lengths(const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>& context) {
  MOELORA_CHECK(lengths.size() == context.size(), "expected one context length per segment, found ", lengths.size(),
                " lengths and ", context.size(), " context lengths");
  Segments segments;
  segments.offsets.reserve(lengths.size() + 1);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    MOELORA_CHECK(lengths[i] > 0 && context[i] >= 0 && context[i] <= lengths[i], "segment ", i, " has length ",
                  lengths[i], " and context ", context[i], "; expected 0 <= context <= length and length >= 1");
    segments.offsets.push_back(segments.offsets.back() + lengths[i]);
  }
  segments.context = context;
  return segments;
}

Segments Segments::for_batch(std::int64_t batch, std::int64_t length) {
  return from_lengths(std::vector<std::int64_t>(batch, length), std::vector<std::int64_t>(batch, length));
}

RowContext RowContext::plain(Segments segments, const at::Device& device) {
  RowContext context;
  at::Tensor segment_of_row = at::empty({segments.rows()}, at::kLong);
  at::Tensor row_in_segment = at::empty({segments.rows()}, at::kLong);
  auto* segment_data = segment_of_row.mutable_data_ptr<std::int64_t>();
  auto* row_data = row_in_segment.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto end = segments.offsets[i + 1];
    std::fill(segment_data + begin, segment_data + end, i);
    std::iota(row_data + begin, row_data + end, std::int64_t{0});
  }
  context.segments = std::move(segments);
  context.segment_of_row = segment_of_row.to(device);
  context.row_in_segment = row_in_segment.to(device);
  return context;
}

RowContext RowContext::select(const at::Tensor& rows) const {
  RowContext selected = *this;
  selected.segment_of_row = segment_of_row.index_select(0, rows);
  selected.row_in_segment = row_in_segment.index_select(0, rows);
  selected.prefix.clear();
  return selected;
}

RowContext RowContext::next_rows(const std::vector<std::int64_t>& kept) const {
  const auto count = kept.size();
  RowContext next =
      plain(Segments::from_lengths(std::vector<std::int64_t>(count, 1), std::vector<std::int64_t>(count, 0)),
            segment_of_row.device());
  if (expert_weights.defined()) {
    const bool all =
        static_cast<std::int64_t>(count) == expert_weights.size(1) && std::is_sorted(kept.begin(), kept.end());
    next.expert_weights =
        all ? expert_weights : expert_weights.index_select(1, at::tensor(kept, at::kLong).to(expert_weights.device()));
  }
  return next;
}

}  // namespace moelora::nn
