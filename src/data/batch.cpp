#include "moelora/data/batch.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "moelora/io/error.h"
#include "nn/move_together.h"

namespace moelora::data {
namespace {

at::Tensor int64_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::memcpy(tensor.data_ptr(), values.data(), values.size() * sizeof(std::int64_t));
  return tensor;
}

}  // namespace

Batch pack(const std::vector<const Example*>& examples, const std::vector<std::int64_t>& draws,
           const model::CausalLM& model, at::Device device) {
  MOELORA_CHECK(examples.size() == draws.size(), "expected one draw index for each of the ", examples.size(),
                " examples, found ", draws.size());
  std::vector<std::int64_t> lengths;
  std::vector<std::int64_t> label_begins;
  std::vector<std::int64_t> ids;
  std::vector<std::int64_t> label_rows;
  std::vector<std::int64_t> labels;
  Batch batch;
  for (std::size_t segment = 0; segment < examples.size(); ++segment) {
    const Example& example = *examples[segment];
    MOELORA_CHECK(example.label_begin >= 1 && example.label_begin < example.length(),
                  "expected an example with 1 or more tokens before its first label, and a label, found ",
                  example.length(), " tokens with the first label at ", example.label_begin);
    const auto first_row = static_cast<std::int64_t>(ids.size());
    ids.insert(ids.end(), example.ids.begin(), example.ids.end());
    for (std::int64_t row = example.label_begin - 1; row < example.length() - 1; ++row) {
      label_rows.push_back(first_row + row);
      labels.push_back(example.ids[static_cast<std::size_t>(row + 1)]);
    }
    lengths.push_back(example.length());
    label_begins.push_back(example.label_begin);
    batch.tasks.push_back(example.task);
  }
  batch.draws = draws;
  batch.segments = model.segments(lengths, label_begins);
  batch.ids = int64_tensor(ids);
  batch.positions = model.positions(batch.segments).contiguous();
  batch.label_rows = int64_tensor(label_rows);
  batch.labels = int64_tensor(labels);
  nn::move_together(batch.tensors(), device);
  return batch;
}

// First-fit decreasing: close to the fewest micro-batches, and a function of the lengths alone.
std::vector<std::vector<std::int64_t>> plan_micro_batches(const std::vector<std::int64_t>& lengths,
                                                          std::int64_t token_budget) {
  std::vector<std::int64_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<std::int64_t>> plan;
  std::vector<std::int64_t> rows;
  for (const std::int64_t index : order) {
    std::size_t place = 0;
    while (place < plan.size() && rows[place] + lengths[index] > token_budget) {
      ++place;
    }
    if (place == plan.size()) {
      plan.emplace_back();
      rows.push_back(0);
    }
    plan[place].push_back(index);
    rows[place] += lengths[index];
  }
  for (std::vector<std::int64_t>& micro_batch : plan) {
    std::sort(micro_batch.begin(), micro_batch.end());
  }
  std::sort(plan.begin(), plan.end());
  return plan;
}

}  // namespace moelora::data
