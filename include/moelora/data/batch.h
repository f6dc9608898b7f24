#pragma once
// A packed micro-batch: sequences back to back, no padding.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/data/example.h"
#include "moelora/model/causal_lm.h"
#include "moelora/nn/row_context.h"

namespace moelora::data {

struct Batch {
  at::Tensor ids;        ///< [rows] int64
  at::Tensor positions;  ///< [axes, rows] int64
  nn::Segments segments;
  at::Tensor label_rows;            ///< [n] int64: rows whose next token is a label
  at::Tensor labels;                ///< [n] int64
  std::vector<std::int64_t> tasks;  ///< [S]
  std::vector<std::int64_t> draws;  ///< [S] global draw index of each sample

  /// Its tensors, for one upload with those of its context: pack(…, at::kCPU), then AdapterImpl::context(…, tensors()).
  std::vector<at::Tensor*> tensors() { return {&ids, &positions, &label_rows, &labels}; }
};

/// Packs whole examples; `draws[i]` belongs to `examples[i]`. Tensors are made on the CPU, then moved to `device` in
/// one upload.
Batch pack(const std::vector<const Example*>& examples, const std::vector<std::int64_t>& draws,
           const model::CausalLM& model, at::Device device);

/// Splits a list of examples (the samples of one optimizer step) into micro-batches of at most `token_budget` rows,
/// keeping their order inside; an example longer than the budget stands alone. Returns indices into `lengths`.
std::vector<std::vector<std::int64_t>> plan_micro_batches(const std::vector<std::int64_t>& lengths,
                                                          std::int64_t token_budget);

}  // namespace moelora::data
