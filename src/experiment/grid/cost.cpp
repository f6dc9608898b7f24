// What a method costs: a training step beside LoRA (Full)'s on the same samples, and a generated token, unmerged and
// merged.

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "experiment/grid/bench.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/data/random.h"
#include "moelora/data/task_prompts.h"
#include "moelora/model/generation.h"
#include "moelora/train/optimizer.h"
#include "moelora/train/run_data.h"
#include "moelora/train/step.h"
#include "moelora/train/trained_parameters.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kTokens = 32;  // generated for a latency
constexpr std::int64_t kLatencyRounds = 7;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// {"median", "low", "high"}: the interval by resampling the pairs.
ordered_json ratio_of(const std::vector<double>& ratios) {
  data::SplitMix64 random(7);
  std::vector<double> medians;
  for (int resample = 0; resample < 1000; ++resample) {
    std::vector<double> drawn;
    for (std::size_t i = 0; i < ratios.size(); ++i) {
      drawn.push_back(ratios[random.below(ratios.size())]);
    }
    medians.push_back(*median_of(std::move(drawn)));
  }
  std::sort(medians.begin(), medians.end());
  return {{"median", *median_of(ratios)}, {"low", medians[25]}, {"high", medians[974]}};
}

/// A training step of a model with or without adapter: gradients, clipping and AdamW with a rate of 0, so that every
/// step starts from the same numbers.
class StepCase {
 public:
  StepCase(model::CausalLM& model, AdapterImpl* adapter, const train::StepSamples& samples,
           const train::TrainingOptions& options)
      : model_(model),
        adapter_(adapter),
        samples_(samples),
        options_(options),
        optimizer_(train::trained_parameters(model, adapter), {options.beta1, options.beta2, options.epsilon, 0.0}) {}

  double run() {
    if (adapter_ != nullptr) {
      adapter_->enable();
      adapter_->train();
    }
    const double seconds = seconds_of([&] {
      train::accumulate_gradients(model_, adapter_, samples_, 1, options_.micro_batch_tokens);
      optimizer_.collect_gradients(1.0, options_.max_grad_norm);
      optimizer_.step(0.0);
      optimizer_.clear_gradients();
    });
    if (adapter_ != nullptr) {
      adapter_->disable();
    }
    return seconds;
  }

 private:
  model::CausalLM& model_;
  AdapterImpl* adapter_;
  const train::StepSamples& samples_;
  const train::TrainingOptions& options_;
  train::AdamW optimizer_;
};

/// Each round is method, reference, reference, method: what comes first gains nothing.
std::vector<double> step_ratios(const Workbench& bench, StepCase& method, StepCase& reference, std::int64_t rounds) {
  method.run();
  reference.run();
  std::vector<double> ratios;
  for (std::int64_t round = 0; round < rounds; ++round) {
    bench.stop_if_asked();
    double ours = method.run();
    const double theirs = reference.run() + reference.run();
    ours += method.run();
    ratios.push_back(ours / theirs);
  }
  return ratios;
}

/// Milliseconds for each of kTokens tokens after one prompt.
double ms_per_token(Workbench& bench, const model::Prompt& prompt, const nn::ContextMaker& context) {
  model::GenerationOptions options;
  options.max_new_tokens = kTokens;
  const double seconds = seconds_of([&] { model::generate(*bench.base.model, {prompt}, options, context); });
  return seconds * 1e3 / static_cast<double>(kTokens);
}

void measure_latency(Workbench& bench, Adapter& adapter, const Method& method, ordered_json& result) {
  const data::Record& record = bench.train.front();
  const data::Record asked = data::TaskPrompts::from_file(bench.config.data.task_prompts).apply(record);
  const model::Prompt prompt = data::encode_prompt(asked, *bench.base.tokenizer, bench.config.data.encode);
  const std::int64_t task = bench.tasks.index(record.task);
  const bool merges = adapter && method.not_mergeable().empty();
  std::vector<double> unmerged, merged;
  if (adapter) {
    adapter->enable();
  }
  for (std::int64_t round = 0; round < kLatencyRounds; ++round) {
    bench.stop_if_asked();
    unmerged.push_back(
        ms_per_token(bench, prompt, adapter ? for_tasks(adapter, single_tasks({task})) : nn::ContextMaker()));
    if (merges) {
      MergeOptions options;
      options.measure = false;
      merge_for_task(adapter, record.task, options);
      merged.push_back(ms_per_token(bench, prompt, {}));
      unmerge(adapter);
    }
  }
  if (method.serves_unmerged()) {
    result["ms_per_token"] = *median_of(unmerged);
  }
  if (merges) {
    result["ms_per_token_merged"] = *median_of(merged);
  }
}

}  // namespace

ordered_json run_cost(const ExperimentConfig& config, const Cell& cell, const std::filesystem::path& output,
                      const OpenBase& open_base, const std::atomic<bool>* stop) {
  const Method& method = find_method(cell.method);
  const auto around = open_bench(config, cell, method, output, open_base, stop);
  Workbench& bench = around->bench;
  ordered_json result = ordered_json::object();
  const std::filesystem::path trained = cell_folder(output, run_id(cell.method, cell.seed)) / "run" / "adapter";
  Adapter adapter{nullptr};
  if (is_adapter_folder(trained)) {
    adapter = load_adapter(*bench.base.model, trained, bench.base.fingerprint, bench.base.tokenizer->fingerprint());
    adapter->disable();
  }
  if (method.is_trained() && method.role() != Role::yardstick) {
    bench.status("timing steps", 0, config.cost_rounds);
    std::vector<data::Record> drawn;
    train::StepSamples samples;
    const std::int64_t count =
        std::min(bench.config.training.batch_size, static_cast<std::int64_t>(bench.train.size()));
    data::SplitMix64 random(11);
    for (std::int64_t i = 0; i < count; ++i) {
      drawn.push_back(bench.train[random.below(bench.train.size())]);
    }
    const auto examples =
        train::encode_examples(drawn, bench.tasks, *bench.base.tokenizer, bench.config.data.encode, "timed step");
    // The method's own prompts: longer ones are part of what it costs.
    const auto asked = train::encode_examples(
        data::TaskPrompts::from_file(bench.config.data.task_prompts).apply_all(drawn), bench.tasks,
        *bench.base.tokenizer, bench.config.data.encode, "timed step of the method");
    train::StepSamples own_samples;
    for (const data::Example& example : asked) {
      own_samples.draws.push_back(static_cast<std::int64_t>(own_samples.examples.size()));
      own_samples.examples.push_back(&example);
    }
    for (const data::Example& example : examples) {
      samples.draws.push_back(static_cast<std::int64_t>(samples.examples.size()));
      samples.examples.push_back(&example);
    }
    const MoeLoraConfig plain =
        config_of(config, method_with(Role::yardstick), bench.tasks.size(), cell.seed, 0.0).adapter;
    Adapter reference = inject(*bench.base.model, plain, bench.tasks, "reference");
    reference->disable();
    Base own;  // full fine-tuning trains a model of its own
    if (bench.config.mode == train::Mode::full) {
      own = open_base(config.model);
      unfreeze(*own.model);
    }
    StepCase measured(own.model ? *own.model : *bench.base.model, adapter ? adapter.get() : nullptr, own_samples,
                      bench.config.training);
    StepCase yardstick(*bench.base.model, reference.get(), samples, bench.config.training);
    result["step_ratio"] = ratio_of(step_ratios(bench, measured, yardstick, config.cost_rounds));
    eject(reference);
  }
  bench.status("timing tokens", 0, kLatencyRounds);
  measure_latency(bench, adapter, method, result);
  result["threads"] = at::get_num_threads();
  return result;
}

}  // namespace moelora::experiment
