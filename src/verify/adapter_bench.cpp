#include "adapter_bench.h"

#include <ATen/ATen.h>

#include "moelora/io/error.h"
#include "moelora/model/registry.h"

namespace moelora::verify {

AdapterBench open_bench(const std::filesystem::path& base, const VerifyOptions& options) {
  AdapterBench bench;
  model::LoadOptions load;
  load.dtype = options.dtype;
  load.device = options.device;
  load.tokenizer = false;
  const model::LoadedModel loaded = model::load(base, load);
  bench.model = loaded.model;
  bench.tokens = loaded.config->special_tokens();
  VerifyReport unused;
  const GoldenFile golden(base / "golden.safetensors", unused);
  bench.batches = labelled_batches(golden, bench.tokens, *bench.model);
  MOELORA_CHECK(!bench.batches.empty(), base.string(),
                ": golden.safetensors lacks batches with labels (NAME.input_ids ",
                "and NAME.labels), which an adapter's goldens share");
  bench.prompts = golden.peek("prompt.input_ids");
  return bench;
}

GraphRun AdapterRun::run(const GoldenBatch& batch) const {
  Adapter evaluated = adapter;
  evaluated->eval();  // the goldens are without dropout
  return run_graph(model, batch, evaluated->context(batch.segments, tasks));
}

void AdapterRun::backward(const GoldenBatch& batch) const {
  for (const at::Tensor& parameter : adapter->parameters()) {
    parameter.mutable_grad() = at::Tensor();
  }
  run(batch).loss.backward();
}

GreedyRun AdapterRun::compare_greedy(GoldenFile& golden, const AdapterBench& bench, double tolerance) const {
  GreedyRun greedy = greedy_run(model, bench.prompts, bench.tokens, golden.peek("greedy_batch.logits").size(1),
                                for_tasks(adapter, tasks));
  golden.compare_equal("greedy_batch.ids", greedy.ids);
  golden.compare("greedy_batch.logits", greedy.logits, tolerance);
  return greedy;
}

void compare_sides(GoldenFile& golden, const AdapterRun& run, const AdapterBench& bench, const std::string& suffix,
                   double tolerance) {
  at::NoGradGuard guard;
  for (const auto& [side, batch] : bench.batches) {
    if (!golden.contains(side + ".logits" + suffix) && !golden.contains(side + ".loss" + suffix)) {
      continue;
    }
    const GraphRun result = run.run(batch);
    if (golden.contains(side + ".logits" + suffix)) {
      golden.compare_rows(side + ".logits" + suffix, batch.pad(result.logits), batch.real, tolerance);
    }
    if (golden.contains(side + ".loss" + suffix)) {
      golden.compare(side + ".loss" + suffix, result.loss.to(at::kFloat).view({1}), tolerance);
    }
  }
}

void compare_forms(VerifyReport& report, const std::string& file, const std::map<std::string, at::Tensor>& expected,
                   const std::map<std::string, at::Tensor>& found) {
  compare_numbers(report, file + ": tensors", static_cast<double>(expected.size()), static_cast<double>(found.size()),
                  0);
  for (const auto& [name, tensor] : expected) {
    MOELORA_CHECK(found.contains(name), file, " lacks ", name);
    compare_tensors(report, file + ": " + name, tensor, found.at(name), 0);
  }
}

}  // namespace moelora::verify
