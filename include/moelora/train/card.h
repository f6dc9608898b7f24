#pragma once
// Cards that a run can be planned for without having one: a table of what their makers state.

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "moelora/train/plan.h"

namespace moelora::train {

struct Card {
  std::string name;                  ///< as --card takes it: "v100-32gb"
  std::string title;                 ///< "Tesla V100 32 GB"
  double memory_bytes = 0.0;         ///< what CUDA reports as the device's memory
  double half_operations = 0.0;      ///< peak of products in fp16, fp32 accumulated, per second
  double bfloat16_operations = 0.0;  ///< the same in bf16; 0: it has no such hardware
  double float_operations = 0.0;     ///< in fp32, without TF32
  double bytes_per_second = 0.0;     ///< of its memory

  double operations(at::ScalarType dtype) const;  ///< Peak of products in this type; 0: not in hardware.
};

const std::vector<Card>& known_cards();
/// Of those with more memory than that.
std::vector<std::string> card_names(double more_bytes = 0.0);
/// Error naming those that are known.
const Card& find_card(const std::string& name);
/// What is planned for where no card is at hand and none is named: V100 32 GB, A100 40 GB for bf16.
const Card& default_card(at::ScalarType dtype);

// What a plan for a card takes for granted. Whoever prints a plan prints these too.

/// The share of the card's peak that a step reaches, its elementwise work and waiting included.
inline constexpr double kAssumedEfficiency = 0.5;
/// What CUDA and LibTorch's kernels take of the card before the first tensor.
inline constexpr double kContextBytes = 0.5e9;
/// Workspaces of cuBLAS and attention.
inline constexpr double kWorkspaceBytes = 0.1e9;
/// What the allocator cannot use, as a share of what a micro-batch stores and works with.
inline constexpr double kFragmentation = 0.05;

/// Of a module's parameters, each once.
double weight_bytes(const torch::nn::Module& module);
/// A process on a device whose model has `weights` bytes, before its first micro-batch: context, workspaces, weights
/// and the adapter's parameters. `operations_per_second` is 0.
Machine device_machine(double weights, const AdapterImpl* adapter);
/// The same, as fast as `card` is assumed to be in `dtype`. Where that has no hardware, as fast as in fp32.
Machine machine_of(const Card& card, at::ScalarType dtype, double weights, const AdapterImpl* adapter);

/// The micro-batch that a card's memory allows.
struct MicroBatchChoice {
  bool fits = false;
  std::int64_t tokens = 0;             ///< for training.micro_batch_tokens; at most the wanted number
  std::int64_t recomputed_blocks = 0;  ///< of the largest micro-batch
  double peak_bytes = 0.0;
  /// For training.memory_budget_gb where blocks are recomputed, in bytes; else 0.
  double budget_bytes = 0.0;
  double seconds = 0.0;  ///< of all the steps
};

/// `steps`: the samples of some steps; the largest micro-batch of all counts. The wanted number of tokens if that fits
/// into `memory_bytes` without more; else the fastest of the smaller micro-batches, with blocks recomputed where they
/// must be. If none fits, the one that takes the least.
MicroBatchChoice choose_micro_batch(const model::CausalLM& model, const AdapterImpl* adapter,
                                    const std::vector<at::Tensor>& trained,
                                    const std::vector<std::vector<const data::Example*>>& steps, std::int64_t wanted,
                                    const Machine& machine, double memory_bytes);

}  // namespace moelora::train
