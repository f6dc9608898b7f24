// The planner's prediction beside what happens, each in a process of its own: model S at several sizes, with and
// without a memory budget.

#include <algorithm>
#include <cmath>

#include "cases.h"
#include "model_s.h"
#include "moelora/train/plan.h"

namespace moelora::bench {
namespace {

struct Situation {
  const char* name;
  std::int64_t sequences;
  std::int64_t length;
  double budget_gb;
};

const Situation kSituations[] = {
    {"planned_1024", 4, 256, 0.0},
    {"planned_2048", 4, 512, 0.0},
    {"planned_4096", 8, 512, 0.0},
    {"planned_4096_within_1.5_GB", 8, 512, 1.5},
};

}  // namespace

nlohmann::ordered_json planned_step(const std::string& name, int times) {
  for (const Situation& situation : kSituations) {
    if (name != situation.name) {
      continue;
    }
    model::ChatGlm model = model_s();
    Adapter adapter = adapter_s(model, adapter_config_s());
    std::vector<data::Example> examples;
    for (std::int64_t i = 0; i < situation.sequences; ++i) {
      examples.push_back(random_example(situation.length, situation.length / 2, i % 4, static_cast<std::uint64_t>(i)));
    }
    const train::StepSamples samples = step_samples(examples);
    const train::Machine machine = train::measure_machine(model->shape().hidden_size, model->dtype());
    const double budget = situation.budget_gb * 1e9;
    const train::StepPlan plan = train::plan_step(*model, adapter.get(), adapter->parameters(), samples.examples,
                                                  kMicroBatchTokens, budget, machine);
    TrainStep step(model, adapter, kMicroBatchTokens, train::activation_bytes(budget, adapter->parameters(), machine));
    std::vector<double> seconds;
    step.run(samples);
    for (int i = 0; i < times; ++i) {
      seconds.push_back(seconds_of([&] { step.run(samples); }));
    }
    return {{"planned_bytes", plan.peak_bytes},
            {"planned_seconds", plan.seconds},
            {"seconds", median_interval(seconds).median},
            {"recomputed_blocks", plan.recomputed_blocks}};
  }
  return {};
}

void planning(const Options& options) {
  nlohmann::ordered_json memory, time;
  double worst_memory = 0.0;
  double worst_time = 0.0;
  for (const Situation& situation : kSituations) {
    const nlohmann::json seen = run_once("'" + options.program.string() + "' --threads " +
                                         std::to_string(options.threads) + " --times 5 --once " + situation.name);
    const auto number = [&](const char* key) { return seen.at(key).get<double>(); };
    const double bytes = number("planned_bytes") / number("peak_memory_bytes");
    const double seconds = number("planned_seconds") / number("seconds");
    memory[situation.name] = {{"planned_gb", number("planned_bytes") / 1e9},
                              {"measured_gb", number("peak_memory_bytes") / 1e9},
                              {"recomputed_blocks", number("recomputed_blocks")}};
    time[situation.name] = {{"planned_seconds", number("planned_seconds")}, {"measured_seconds", number("seconds")}};
    worst_memory = std::max(worst_memory, std::abs(bytes - 1.0));
    worst_time = std::max(worst_time, std::abs(seconds - 1.0));
  }
  report({13, "planner: peak memory, largest deviation from measured", "", 0.10, {}}, worst_memory,
         {{"situations", memory}});
  report({13, "planner: step time, largest deviation from measured", "", 0.20, {}}, worst_time, {{"situations", time}});
}

}  // namespace moelora::bench
