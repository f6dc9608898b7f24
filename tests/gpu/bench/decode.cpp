// Greedy decoding on the device: how much of the card's bandwidth reading the weights reaches, and eight tasks in one
// batch beside one merged task.

#include <ATen/ATen.h>

#include <chrono>
#include <optional>

#include "benchmarks/model_s.h"
#include "gpu/bench/rows.h"
#include "moelora/adapter/merge.h"
#include "moelora/model/generation.h"

namespace moelora::bench {
namespace {

constexpr std::int64_t kPrompt = 64;
constexpr std::int64_t kSteps = 64;

double bytes_read_by_a_step(model::ChatGlm& model) {
  double bytes = 0.0;
  for (const auto& entry : model->named_parameters()) {
    if (entry.key().find("word_embeddings") == std::string::npos) {
      bytes += static_cast<double>(entry.value().nbytes());
    }
  }
  return bytes;
}

/// Bytes per second that a large copy moves, read and written: the fastest of several.
double bandwidth(const at::Device& device, int rounds) {
  const at::Tensor from = at::zeros({device.is_cpu() ? 1 << 24 : 1 << 30}, at::TensorOptions(device).dtype(at::kByte));
  const at::Tensor to = at::empty_like(from);
  double fastest = 0.0;
  for (int round = 0; round <= rounds; ++round) {
    wait_for(device);
    const double seconds = seconds_of([&] {
      to.copy_(from);
      wait_for(device);
    });
    fastest = std::max(fastest, 2.0 * static_cast<double>(from.nbytes()) / seconds);
  }
  return fastest;
}

double seconds_per_step(model::ChatGlm& model, std::int64_t batch, const nn::ContextMaker& context) {
  using Clock = std::chrono::steady_clock;
  std::vector<model::Prompt> prompts;
  for (std::int64_t i = 0; i < batch; ++i) {
    prompts.push_back({random_example(kPrompt, kPrompt - 1, 0, static_cast<std::uint64_t>(i)).ids, kPrompt - 1});
  }
  model::GenerationOptions options;
  options.max_new_tokens = kSteps + 1;
  std::optional<Clock::time_point> first;
  std::int64_t steps = 0;
  Clock::time_point last;
  model::generate(*model, prompts, options, context, [&](std::int64_t prompt, std::int64_t) {
    if (prompt == 0) {
      last = Clock::now();
      steps += first ? 1 : 0;
      first = first ? first : last;
    }
  });
  return std::chrono::duration<double>(last - *first).count() / static_cast<double>(steps);
}

}  // namespace

void decode_on_device(const DeviceOptions& options) {
  model::ChatGlm model = random_model(options);
  Adapter adapter = random_adapter(model);
  adapter->eval();
  const double limit = bandwidth(options.device, options.rounds);
  std::vector<double> one, eight, unmerged, ratios;
  const std::vector<std::int64_t> tasks{0, 1, 2, 3, 4, 5, 6, 7};
  for (int round = 0; round <= options.rounds; ++round) {
    adapter->disable();  // as a merged model runs
    const double single = seconds_per_step(model, 1, {});
    const double merged = seconds_per_step(model, 8, {});
    adapter->enable();
    const double mixed = seconds_per_step(model, 8, for_tasks(adapter, single_tasks(tasks)));
    if (round > 0) {  // the first one warms up
      one.push_back(single);
      eight.push_back(merged);
      unmerged.push_back(mixed);
      ratios.push_back(mixed / merged);
    }
  }
  const Interval step = median_interval(one);
  const double bytes = bytes_read_by_a_step(model);
  report({11, options.shape + ": bandwidth of greedy decoding, batch 1 / of a copy", "", 0.75, 0.90, Better::larger},
         {bytes / step.median / limit, bytes / step.high / limit, bytes / step.low / limit},
         {{"ours", "merged, batch 1"},
          {"ours_seconds", step.median},
          {"tokens_per_second", 1.0 / step.median},
          {"copy_gb_per_s", limit / 1e9}});
  report({11, options.shape + ": decoding 8 tasks in a batch of 8, unmerged / one task merged", "", 1.10, std::nullopt},
         median_interval(ratios),
         {{"ours", "8 tasks unmerged"},
          {"ours_seconds", median_interval(unmerged).median},
          {"yardstick", "merged"},
          {"yardstick_seconds", median_interval(eight).median}});
}

}  // namespace moelora::bench
