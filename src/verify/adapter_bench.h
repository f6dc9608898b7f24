#pragma once
// What goldens of adapters have in common: the base's batches, and an adapter run on them.

#include "golden.h"
#include "moelora/adapter/adapter.h"

namespace moelora::verify {

// The base's golden batches, which adapters' goldens share.
struct AdapterBench {
  std::shared_ptr<model::CausalLM> model;
  model::SpecialTokens tokens;
  std::map<std::string, GoldenBatch> batches;  ///< the same sequences, padded in different ways; by name
  at::Tensor prompts;
  /// The batch whose gradients and training steps the goldens have: the first by name.
  const GoldenBatch& trained() const { return batches.begin()->second; }
  TaskIds one_task() const { return TaskIds(static_cast<std::size_t>(trained().segments.count()), {0}); }
};

AdapterBench open_bench(const std::filesystem::path& base, const VerifyOptions& options);

struct AdapterRun {
  Adapter adapter;
  model::CausalLM& model;
  TaskIds tasks;

  GraphRun run(const GoldenBatch& batch) const;
  void backward(const GoldenBatch& batch) const;  ///< Fresh gradients of the batch's loss.
  /// Greedy decoding of as many tokens as "greedy_batch.logits" has, compared with "greedy_batch.*".
  GreedyRun compare_greedy(GoldenFile& golden, const AdapterBench& bench, double tolerance) const;
};

/// Logits and losses of the batches against SIDE.logits + suffix and SIDE.loss + suffix, of those sides that the golden
/// file has.
void compare_sides(GoldenFile& golden, const AdapterRun& run, const AdapterBench& bench, const std::string& suffix,
                   double tolerance);

/// Two forms of the same checkpoint: every tensor of `expected` must be in `found` with the same values, and no other.
void compare_forms(VerifyReport& report, const std::string& file, const std::map<std::string, at::Tensor>& expected,
                   const std::map<std::string, at::Tensor>& found);

}  // namespace moelora::verify
