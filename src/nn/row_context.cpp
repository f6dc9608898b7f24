#include "moelora/nn/row_context.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <numeric>

#include "moelora/io/error.h"
#include "nn/move_together.h"
#include "nn/prefixed_rows.h"

namespace moelora::nn {
namespace {

at::Tensor int32_tensor(const std::vector<std::int32_t>& values) { return at::tensor(values, at::kInt); }

}  // namespace

AttentionTables AttentionTables::of(const Segments& segments) {
  AttentionTables tables;
  std::vector<std::int32_t> parts{0}, all{0}, causal_offsets{0};
  std::vector<std::int32_t> causal_of_row(static_cast<std::size_t>(segments.rows()), -1);
  std::vector<std::int64_t> causal_rows;
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const std::int64_t length = segments.length(i);
    const std::int64_t both_ways = segments.bidirectional[static_cast<std::size_t>(i)];
    for (std::int64_t row = segments.offsets[i] + both_ways; row < segments.offsets[i + 1]; ++row) {
      causal_of_row[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(causal_rows.size());
      causal_rows.push_back(row);
    }
    parts.push_back(static_cast<std::int32_t>(segments.offsets[i] + both_ways));
    parts.push_back(static_cast<std::int32_t>(segments.offsets[i + 1]));
    all.push_back(static_cast<std::int32_t>(segments.offsets[i + 1]));
    causal_offsets.push_back(static_cast<std::int32_t>(causal_rows.size()));
    tables.longest_part = std::max({tables.longest_part, both_ways, length - both_ways});
    tables.longest_segment = std::max(tables.longest_segment, length);
    tables.longest_causal = std::max(tables.longest_causal, length - both_ways);
    tables.shortest_causal = i == 0 ? length - both_ways : std::min(tables.shortest_causal, length - both_ways);
  }
  tables.parts = int32_tensor(parts);
  tables.segments = int32_tensor(all);
  tables.causal_rows = at::tensor(causal_rows, at::kLong);
  tables.causal_offsets = int32_tensor(causal_offsets);
  tables.causal_of_row = int32_tensor(causal_of_row);
  return tables;
}

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

RowContext RowContext::plain(Segments segments, const at::Device& device, DropoutKey dropout,
                             const std::vector<at::Tensor*>& along) {
  MOELORA_CHECK(!dropout.active() || static_cast<std::int64_t>(dropout.draws.size()) == segments.count(),
                "dropout needs the draw index of each of ", segments.count(), " samples, found ", dropout.draws.size());
  RowContext context;
  const at::TensorOptions options(at::kLong);
  context.segment_of_row = at::empty({segments.rows()}, options);
  context.row_in_segment = at::empty({segments.rows()}, options);
  std::vector<at::Tensor*> tables{&context.segment_of_row, &context.row_in_segment};
  auto* segment_data = context.segment_of_row.mutable_data_ptr<std::int64_t>();
  auto* row_data = context.row_in_segment.mutable_data_ptr<std::int64_t>();
  std::int64_t* draw_data = nullptr;
  if (dropout.active()) {
    context.draw_of_row = at::empty({segments.rows()}, options);
    draw_data = context.draw_of_row.mutable_data_ptr<std::int64_t>();
    tables.push_back(&context.draw_of_row);
  }
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const auto begin = segments.offsets[i];
    const auto end = segments.offsets[i + 1];
    std::fill(segment_data + begin, segment_data + end, i);
    std::iota(row_data + begin, row_data + end, std::int64_t{0});
    if (draw_data != nullptr) {
      std::fill(draw_data + begin, draw_data + end, dropout.draws[static_cast<std::size_t>(i)]);
    }
  }
  if (!device.is_cpu()) {
    auto attention = std::make_shared<AttentionTables>(AttentionTables::of(segments));
    const auto of_attention = attention->tensors();
    tables.insert(tables.end(), of_attention.begin(), of_attention.end());
    tables.insert(tables.end(), along.begin(), along.end());
    move_together(tables, device);
    context.attention = std::move(attention);
  }
  context.segments = std::move(segments);
  context.dropout = std::move(dropout);
  return context;
}

void RowContext::set_prefix(std::vector<KeyValuePrefix> prefixes) {
  prefix = std::move(prefixes);
  prefixed_rows = nullptr;
  const at::Device device = segment_of_row.device();
  if (!device.is_cpu() && !prefix.empty()) {
    prefixed_rows = std::make_shared<const PrefixedRows>(segments, prefix.front().length(), device);
  }
}

RowContext RowContext::select(const at::Tensor& rows) const {
  RowContext selected = *this;
  selected.segment_of_row = segment_of_row.index_select(0, rows);
  selected.row_in_segment = row_in_segment.index_select(0, rows);
  if (draw_of_row.defined()) {
    selected.draw_of_row = draw_of_row.index_select(0, rows);
  }
  selected.attention = nullptr;
  selected.set_prefix({});
  return selected;
}

RowContext RowContext::pooled() const {
  const std::vector<std::int64_t> ones(static_cast<std::size_t>(segments.count()), 1);
  RowContext rows = plain(Segments::from_lengths(ones, ones), segment_of_row.device(), dropout);
  rows.expert_weights = expert_weights;
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
  std::vector<KeyValuePrefix> prefixes;
  for (const KeyValuePrefix& each : prefix) {
    const bool own = each.defined() && each.key.dim() == 4;
    prefixes.push_back(own ? KeyValuePrefix{each.key.narrow(0, segment, 1), each.value.narrow(0, segment, 1)} : each);
  }
  context.set_prefix(std::move(prefixes));
  return context;
}

}  // namespace moelora::nn
