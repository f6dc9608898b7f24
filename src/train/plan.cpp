#include "moelora/train/plan.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>

#include "moelora/data/batch.h"
#include "moelora/io/error.h"

namespace moelora::train {
namespace {

model::StepCost cost_of(const model::CausalLM& model, const model::Workload& load, std::int64_t recomputed) {
  const auto cost = model.step_cost(load, recomputed);
  MOELORA_CHECK(cost.has_value(), "this model offers no costs (CausalLM::step_cost), so its steps can't be planned");
  return *cost;
}

double adapter_operations(const AdapterImpl* adapter, const model::Workload& load) {
  double operations = 0.0;
  if (adapter != nullptr) {
    for (const auto& linear : adapter->linears()) {
      operations += linear.delta->operations_per_row();
    }
  }
  return operations * static_cast<double>(load.rows);
}

std::int64_t prefix_length(const AdapterImpl* adapter) {
  return adapter && adapter->config().prefix ? adapter->config().prefix->length : 0;
}

double fixed_bytes(const std::vector<at::Tensor>& trained, const Machine& machine) {
  return machine.resident_bytes + optimizer_bytes(trained) +
         machine.bytes_per_thread * static_cast<double>(at::get_num_threads());
}

}  // namespace

double resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) {
      return std::stod(line.substr(6)) * 1024.0;
    }
  }
  return 0.0;
}

Machine measure_machine(std::int64_t width, at::ScalarType dtype) {
  Machine machine;
  machine.resident_bytes = resident_bytes();
  machine.operations_per_second = measure_products(width, dtype, at::kCPU);
  return machine;
}

double measure_products(std::int64_t width, at::ScalarType dtype, const at::Device& device) {
  at::NoGradGuard no_grad;
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const auto best_of = [&](std::int64_t rows, std::int64_t inner, double seconds) {
    const at::TensorOptions options(device);
    const at::Tensor x = at::ones({rows, inner}, options.dtype(dtype));
    const at::Tensor w = at::ones({inner, 4 * inner}, options.dtype(dtype));
    const double operations = 2.0 * static_cast<double>(rows * inner * 4 * inner);
    double best = 0.0;
    const auto begin = Clock::now();
    do {
      const auto start = Clock::now();
      const at::Tensor y = at::mm(x, w);
      if (!device.is_cpu()) {
        y[0][0].item<float>();  // waits until it is there
      }
      best = std::max(best, operations / seconds_since(start));
    } while (seconds_since(begin) < seconds);
    return best;
  };
  // A processor without products in this type may take minutes for the large ones (half precision): a small one shows
  // that.
  if (device.is_cpu()) {
    const auto begin = Clock::now();
    const double small = best_of(16, std::min<std::int64_t>(width, 1024), 0.0);
    if (seconds_since(begin) > 0.1) {
      return small;
    }
  }
  return best_of(512, width, 0.5);
}

model::Workload workload_of(const model::CausalLM& model, const std::vector<const data::Example*>& examples) {
  model::Workload load;
  std::vector<std::int64_t> lengths, label_begins;
  for (const data::Example* example : examples) {
    load.labels += example->label_count();
    lengths.push_back(example->length());
    label_begins.push_back(example->label_begin);
  }
  const nn::Segments segments = model.segments(lengths, label_begins);
  for (std::int64_t i = 0; i < segments.count(); ++i) {
    const std::int64_t both_ways = segments.bidirectional[i];
    const std::int64_t causal = segments.length(i) - both_ways;
    load.pairs += both_ways * both_ways + causal * both_ways + causal * (causal + 1) / 2;
  }
  load.rows = segments.rows();
  return load;
}

double prefix_bytes(const model::CausalLM& model, const AdapterImpl* adapter,
                    const std::vector<const data::Example*>& examples) {
  const std::int64_t length = prefix_length(adapter);
  if (length == 0) {
    return 0.0;
  }
  std::int64_t longest = 0;
  for (const data::Example* example : examples) {
    longest = std::max(longest, example->length());
  }
  const std::int64_t copies = adapter->config().prefix->dropout > 0.0 ? static_cast<std::int64_t>(examples.size()) : 1;
  const auto values = static_cast<double>(copies * length * model.prefix_shape().width());
  const auto scores = static_cast<double>(model.shape().heads * longest * (longest + length));
  // Values with their gradients; scores, masked, as weights, and the gradients of two of these. In fp32.
  return 4.0 * (2.0 * values + 5.0 * scores);
}

double optimizer_bytes(const std::vector<at::Tensor>& trained) {
  double bytes = 0.0;
  for (const at::Tensor& parameter : trained) {
    const bool master = parameter.scalar_type() != at::kFloat;
    bytes += static_cast<double>(parameter.numel()) *
             (static_cast<double>(parameter.element_size()) + 8.0 + (master ? 8.0 : 0.0));
  }
  return bytes;
}

double activation_bytes(double budget_bytes, const std::vector<at::Tensor>& trained, const Machine& machine) {
  return budget_bytes > 0.0 ? (budget_bytes - fixed_bytes(trained, machine)) / (1.0 + machine.fragmentation)
                            : std::numeric_limits<double>::infinity();
}

std::int64_t blocks_to_recompute(const model::CausalLM& model, const model::Workload& load, double bytes) {
  const std::int64_t most = model.shape().layers - 1;
  if (!model.step_cost(load, 0)) {
    return 0;
  }
  for (std::int64_t blocks = 0; blocks < most; ++blocks) {
    const model::StepCost cost = cost_of(model, load, blocks);
    if (cost.stored_bytes + cost.working_bytes <= bytes) {
      return blocks;
    }
  }
  return most;
}

StepPlan plan_step(const model::CausalLM& model, const AdapterImpl* adapter, const std::vector<at::Tensor>& trained,
                   const std::vector<const data::Example*>& samples, std::int64_t micro_batch_tokens,
                   double budget_bytes, const Machine& machine) {
  std::vector<std::int64_t> lengths;
  for (const data::Example* example : samples) {
    lengths.push_back(example->length());
  }
  const double fixed = fixed_bytes(trained, machine);
  const double limit = activation_bytes(budget_bytes, trained, machine);
  StepPlan plan;
  for (const auto& indices : data::plan_micro_batches(lengths, micro_batch_tokens)) {
    std::vector<const data::Example*> chosen;
    for (const std::int64_t index : indices) {
      chosen.push_back(samples[static_cast<std::size_t>(index)]);
    }
    model::Workload load = workload_of(model, chosen);
    load.pairs += prefix_length(adapter) * load.rows;
    const double of_prefix = prefix_bytes(model, adapter, chosen);
    const std::int64_t blocks = blocks_to_recompute(model, load, limit - of_prefix);
    const model::StepCost cost = cost_of(model, load, blocks);
    const double peak = fixed + (of_prefix + cost.stored_bytes + cost.working_bytes) * (1.0 + machine.fragmentation);
    const double operations = cost.operations + adapter_operations(adapter, load);
    plan.seconds += machine.extra_seconds + std::max(machine.least_seconds, operations / machine.operations_per_second *
                                                                                (1.0 + machine.besides_products));
    ++plan.micro_batches;
    if (peak > plan.peak_bytes) {
      plan.peak_bytes = peak;
      plan.largest = load;
      plan.recomputed_blocks = blocks;
    }
  }
  return plan;
}

}  // namespace moelora::train
