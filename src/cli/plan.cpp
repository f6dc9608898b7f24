#include "cli/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "moelora/data/sampler.h"
#include "moelora/io/error.h"
#include "moelora/io/readable.h"
#include "moelora/train/plan.h"

namespace moelora::cli {
namespace {

constexpr std::int64_t kSteps = 20;  // that the prediction looks at

void plan_line(const char* name, const std::string& value) { std::printf("%-24s %s\n", name, value.c_str()); }

std::string fixed_number(double value, const char* unit, int digits) {
  char text[64];
  // A number that is out of any range keeps to a few digits too.
  std::snprintf(text, sizeof text, std::abs(value) < 1e15 ? "%.*f %s" : "%.*e %s", digits, value, unit);
  return text;
}

std::vector<at::Tensor> trained_tensors(const Session& session, train::Mode mode) {
  if (mode == train::Mode::new_task) {
    std::vector<at::Tensor> embeddings;
    for (const TaskGate& gate : session.adapter->gates()) {
      embeddings.push_back(gate->task_embedding);
    }
    return embeddings;
  }
  const auto tensors = session.adapter ? session.adapter->parameters() : session.model->parameters();
  return {tensors.begin(), tensors.end()};
}

}  // namespace

void print_plan(const Session& session, const train::TrainConfig& config, const std::vector<data::Example>& examples,
                double absent_bytes, PlanLengths lengths) {
  MOELORA_CHECK(config.mode != train::Mode::full,
                "only the training of an adapter is planned, not that of a whole model; set \"mode\" to \"adapter\"");
  MOELORA_CHECK(!examples.empty(), "expected samples to plan with, found none");
  const train::TrainingOptions& options = config.training;
  std::vector<std::int64_t> tasks;
  for (const data::Example& example : examples) {
    tasks.push_back(example.task);
  }
  data::Sampler sampler(tasks, options.batch_size, options.batching, options.seed);
  train::Machine machine = train::measure_machine(session.model->shape().hidden_size, session.model->dtype());
  machine.resident_bytes += absent_bytes;
  train::StepPlan worst;
  double seconds = 0.0;
  const std::int64_t steps = std::min(kSteps, options.steps);
  for (std::int64_t step = 0; step < steps; ++step) {
    std::vector<const data::Example*> samples;
    for (const std::int64_t sample : sampler.next().samples) {
      samples.push_back(&examples[static_cast<std::size_t>(sample)]);
    }
    const train::StepPlan plan = train::plan_step(*session.model, session.adapter ? session.adapter.get() : nullptr,
                                                  trained_tensors(session, config.mode), samples,
                                                  options.micro_batch_tokens, options.memory_budget_gb * 1e9, machine);
    seconds += plan.seconds / static_cast<double>(steps);
    if (plan.peak_bytes > worst.peak_bytes) {
      worst = plan;
    }
  }
  if (lengths == PlanLengths::assumed) {
    std::printf("Plan, of steps whose samples all have the assumed length:\n");
  } else {
    std::printf("Plan, from the data of the first %lld steps:\n", static_cast<long long>(steps));
  }
  plan_line("largest micro-batch", io::with_commas(worst.largest.rows) + " tokens, " +
                                       io::with_commas(worst.largest.labels) + " of them labels");
  plan_line("peak memory", fixed_number(worst.peak_bytes / 1e9, "GB", 2));
  if (options.memory_budget_gb > 0.0) {
    plan_line("budget", fixed_number(options.memory_budget_gb, "GB", 2));
    plan_line("recomputed blocks",
              std::to_string(worst.recomputed_blocks) + " of " + std::to_string(session.model->shape().layers));
    if (worst.peak_bytes > options.memory_budget_gb * 1e9) {
      plan_line("", "the budget can't be kept: lower training.micro_batch_tokens");
    }
  }
  plan_line("time of a step", fixed_number(seconds, "s", 3));
  plan_line("time of all steps", fixed_number(seconds * static_cast<double>(options.steps) / 60.0, "min", 1) + " for " +
                                     io::with_commas(options.steps) + " steps, without validation");
  plan_line("products", fixed_number(machine.operations_per_second / 1e9, "GFLOP/s, measured", 0));
}

}  // namespace moelora::cli
