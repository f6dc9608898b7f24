#include "moelora/nn/row_context.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <numeric>

#include "moelora/io/error.h"

namespace moelora::nn {

Segments Segments::from_lengths(const std::vector<std::int64_t>& lengths,
                                const std::vector<std::int64_t>& bidirectional) {
  MOELORA_CHECK(lengths.size() == bidirectional.size(),
                "expected one number of bidirectional rows for each segment, found ", lengths.size(), " lengths and ",
                bidirectional.size(), " numbers of bidirectional rows");
  Segments segments;
  segments.offsets.reserve(lengths.size() + 1);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    MOELORA_CHECK(lengths[i] > 0 && bidirectional[i] >= 0 && bidirectional[i] <= lengths[i], "segment ", i,
                  " has length ", lengths[i], " and ", bidirectional[i],
                  " bidirectional rows; expected a length of at least 1 and 0 to that many bidirectional rows");
    segments.offsets.push_back(segments.offsets.back() + lengths[i]);
  }
  segments.bidirectional = bidirectional;
  return segments;
}

Segments Segments::from_lengths(const std::vector<std::int64_t>& lengths) {
  return from_lengths(lengths, std::vector<std::int64_t>(lengths.size(), 0));
}

Segments Segments::for_batch(std::int64_t batch, std::int64_t length) {
  return from_lengths(std::vector<std::int64_t>(batch, length), std::vector<std::int64_t>(batch, length));
}

DropoutKey DropoutKey::for_step(std::uint64_t seed, std::int64_t step, std::int64_t batch) {
  MOELORA_CHECK(step >= 0 && batch >= 1,
                "expected a step counted from 0 and a batch of at least one sample, found step ", step, " and batch ",
                batch);
  DropoutKey key{seed, std::vector<std::int64_t>(static_cast<std::size_t>(batch))};
  std::iota(key.draws.begin(), key.draws.end(), step * batch);
  return key;
}

void ContextOrigin::require_merged_alike() const {
  if (adapter->merged.empty() || (adapter->merged_task >= 0 && !adapter->tasks_differ) ||
      tasks == std::vector<std::int64_t>{adapter->merged_task}) {
    return;
  }
  std::string wanted;
  for (const std::int64_t task : tasks) {
    const bool known = task >= 0 && task < static_cast<std::int64_t>(adapter->tasks.size());
    wanted +=
        (wanted.empty() ? "" : ", ") + (known ? adapter->tasks[static_cast<std::size_t>(task)] : std::to_string(task));
  }
  throw Error(detail::concat("adapter '", adapter->name, "' is merged into the base as ", adapter->merged,
                             ", but the context is for ", tasks.size() == 1 ? "task " : "tasks ",
                             wanted.empty() ? "that were not given" : wanted, "; the weights would answer as ",
                             adapter->merged,
                             " for every sequence: merge what is asked for, call unmerge() first, or run the merged "
                             "model as it is with RowContext::plain()"));
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

RowContext RowContext::pooled() const {
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(segments.count()), 1);
  RowContext rows = plain(Segments::from_lengths(ones, ones), segment_of_row.device());
  rows.expert_weights = expert_weights;
  rows.dropout = dropout;
  rows.sample_weights = sample_weights;
  rows.origin = origin;
  return rows;
}

RowContext RowContext::with_experts_of(Segments rows, const std::vector<std::int64_t>& chosen) const {
  RowContext context = plain(std::move(rows), segment_of_row.device());
  context.origin = origin;
  if (expert_weights.defined()) {
    const bool all = static_cast<std::int64_t>(chosen.size()) == expert_weights.size(1) &&
                     std::is_sorted(chosen.begin(), chosen.end());
    context.expert_weights =
        all ? expert_weights
            : expert_weights.index_select(1, at::tensor(chosen, at::kLong).to(expert_weights.device()));
  }
  return context;
}

RowContext RowContext::next_rows(const std::vector<std::int64_t>& kept) const {
  return with_experts_of(Segments::from_lengths(std::vector<std::int64_t>(kept.size(), 1)), kept);
}

RowContext RowContext::like_segment(std::int64_t segment, std::int64_t length, std::int64_t bidirectional) const {
  RowContext context = with_experts_of(Segments::from_lengths({length}, {bidirectional}), {segment});
  for (const KeyValuePrefix& each : prefix) {
    const bool own = each.defined() && each.key.dim() == 4;
    context.prefix.push_back(own ? KeyValuePrefix{each.key.narrow(0, segment, 1), each.value.narrow(0, segment, 1)}
                                 : each);
  }
  return context;
}

}  // namespace moelora::nn
