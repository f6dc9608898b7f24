#include "moelora/train/card.h"

#include <algorithm>
#include <set>

#include "moelora/io/error.h"
#include "moelora/io/readable.h"

namespace moelora::train {
namespace {

constexpr double kMiB = 1048576.0;
constexpr std::int64_t kTokensStep = 128;  // micro-batches are tried in multiples of it

constexpr double kMicroBatchSeconds = 0.0125;  // 2,500 launches of 5 microseconds

/// What the step that takes the most memory takes, and the seconds of all.
StepPlan plan_steps(const model::CausalLM& model, const AdapterImpl* adapter, const std::vector<at::Tensor>& trained,
                    const std::vector<std::vector<const data::Example*>>& steps, std::int64_t tokens,
                    double budget_bytes, const Machine& machine) {
  StepPlan largest;
  double seconds = 0.0;
  for (const std::vector<const data::Example*>& samples : steps) {
    const StepPlan plan = plan_step(model, adapter, trained, samples, tokens, budget_bytes, machine);
    seconds += plan.seconds;
    if (plan.peak_bytes > largest.peak_bytes) {
      largest = plan;
    }
  }
  largest.seconds = seconds;
  return largest;
}

}  // namespace

double Card::operations(at::ScalarType dtype) const {
  return dtype == at::kHalf ? half_operations : dtype == at::kBFloat16 ? bfloat16_operations : float_operations;
}

const std::vector<Card>& known_cards() {
  // Peaks and bandwidths: the makers' data sheets of the SXM forms, dense; memory: what CUDA reports.
  static const std::vector<Card> cards{
      {"v100-16gb", "Tesla V100 16 GB", 16160 * kMiB, 125e12, 0.0, 15.7e12, 0.90e12},
      {"v100-32gb", "Tesla V100 32 GB", 32501 * kMiB, 125e12, 0.0, 15.7e12, 0.90e12},
      {"a100-40gb", "A100 40 GB", 40370 * kMiB, 312e12, 312e12, 19.5e12, 1.555e12},
      {"a100-80gb", "A100 80 GB", 81050 * kMiB, 312e12, 312e12, 19.5e12, 2.039e12},
      {"h100-80gb", "H100 80 GB", 81000 * kMiB, 989e12, 989e12, 67e12, 3.35e12},
  };
  return cards;
}

std::vector<std::string> card_names(double more_bytes) {
  std::vector<std::string> names;
  for (const Card& card : known_cards()) {
    if (card.memory_bytes > more_bytes) {
      names.push_back(card.name);
    }
  }
  return names;
}

const Card& find_card(const std::string& name) {
  for (const Card& card : known_cards()) {
    if (card.name == name) {
      return card;
    }
  }
  throw Error(detail::concat("--card: expected one of ", io::joined(card_names()), ", found '", name, "'"));
}

const Card& default_card(at::ScalarType dtype) { return find_card(dtype == at::kBFloat16 ? "a100-40gb" : "v100-32gb"); }

double weight_bytes(const torch::nn::Module& module) {
  double bytes = 0.0;
  std::set<const void*> seen;  // a head that is the embedding counts once
  for (const at::Tensor& tensor : module.parameters()) {
    if (seen.insert(tensor.storage().unsafeGetStorageImpl()).second) {
      bytes += static_cast<double>(tensor.numel()) * static_cast<double>(tensor.element_size());
    }
  }
  return bytes;
}

Machine device_machine(double weights, const AdapterImpl* adapter) {
  Machine machine;
  machine.resident_bytes = kContextBytes + kWorkspaceBytes + weights;
  if (adapter != nullptr) {
    machine.resident_bytes += weight_bytes(*adapter);
  }
  machine.bytes_per_thread = 0.0;
  machine.fragmentation = kFragmentation;
  machine.extra_seconds = kMicroBatchSeconds;
  return machine;
}

Machine machine_of(const Card& card, at::ScalarType dtype, double weights, const AdapterImpl* adapter) {
  Machine machine = device_machine(weights, adapter);
  const double peak = card.operations(dtype);
  machine.operations_per_second = kAssumedEfficiency * (peak > 0.0 ? peak : card.float_operations);
  machine.besides_products = 0.0;                                 // the efficiency is that of a step
  machine.least_seconds = 2.0 * weights / card.bytes_per_second;  // forward and backward
  return machine;
}

MicroBatchChoice choose_micro_batch(const model::CausalLM& model, const AdapterImpl* adapter,
                                    const std::vector<at::Tensor>& trained,
                                    const std::vector<std::vector<const data::Example*>>& steps, std::int64_t wanted,
                                    const Machine& machine, double memory_bytes) {
  const auto planned = [&](std::int64_t tokens, double budget) {
    const StepPlan plan = plan_steps(model, adapter, trained, steps, tokens, budget, machine);
    return MicroBatchChoice{
        plan.peak_bytes <= memory_bytes,           tokens,      plan.recomputed_blocks, plan.peak_bytes,
        plan.recomputed_blocks > 0 ? budget : 0.0, plan.seconds};
  };
  MicroBatchChoice best = planned(wanted, 0.0);
  if (best.fits) {
    return best;
  }
  std::int64_t tokens = wanted;
  while (tokens > 0) {
    const MicroBatchChoice next = planned(tokens, memory_bytes);
    const bool better = next.fits == best.fits
                            ? (next.fits ? next.seconds < best.seconds : next.peak_bytes < best.peak_bytes)
                            : next.fits;
    if (better) {
      best = next;
    }
    tokens = tokens % kTokensStep == 0 ? tokens - kTokensStep : tokens / kTokensStep * kTokensStep;
  }
  return best;
}

}  // namespace moelora::train
