#pragma once
// What a training step will take, before it runs: peak memory and time of a micro-batch, and how many blocks must be
// run again in backward for a memory budget.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moelora/adapter/adapter.h"
#include "moelora/data/example.h"
#include "moelora/model/causal_lm.h"

namespace moelora::train {

/// What the machine gives. These defaults are those of a CPU; those of a device: train/card.h.
struct Machine {
  double resident_bytes = 0.0;       ///< Of this process now: the programs' libraries and what is loaded.
  double operations_per_second = 0;  ///< Of products of the model's size, with the threads set at present.
  double bytes_per_thread = 24e6;    ///< Buffers of the BLAS and of our own loops.
  double fragmentation = 0.0;        ///< What is lost of a micro-batch's memory, as a share of it.
  /// What a step takes besides products at their best speed: elementwise work, narrow products, waiting. A share of
  /// their time, from `moelora_bench plan` on the model and machine of its table.
  double besides_products = 0.25;
  double least_seconds = 0.0;  ///< Of a micro-batch: the time in which its weights are read.
  double extra_seconds = 0.0;  ///< Of a micro-batch: what it takes besides, whatever its size.
};
double resident_bytes();
/// Takes about half a second; longer where a small product takes that long already. `width`: the model's hidden_size.
Machine measure_machine(std::int64_t width, at::ScalarType dtype);
/// Operations per second of products on a device that is at hand.
double measure_products(std::int64_t width, at::ScalarType dtype, const at::Device& device);

/// Rows, labels and attended pairs of some samples.
model::Workload workload_of(const model::CausalLM& model, const std::vector<const data::Example*>& examples);

/// What a prefix adds to a micro-batch: its values, and the scores of the longest sample, which attention with a prefix
/// stores for a while. 0 without one.
double prefix_bytes(const model::CausalLM& model, const AdapterImpl* adapter,
                    const std::vector<const data::Example*>& examples);

struct StepPlan {
  std::int64_t micro_batches = 0;
  model::Workload largest;             ///< of the micro-batch that takes the most memory
  std::int64_t recomputed_blocks = 0;  ///< in that micro-batch
  double peak_bytes = 0.0;
  double seconds = 0.0;  ///< of the whole step
};

/// Trained parameters' gradients, AdamW state and (below fp32) master copies, in bytes.
double optimizer_bytes(const std::vector<at::Tensor>& trained);

/// What a process, its model loaded, may use for a micro-batch's activations; infinity without a budget (0).
double activation_bytes(double budget_bytes, const std::vector<at::Tensor>& trained, const Machine& machine);

/// The fewest recomputed blocks so that what a micro-batch stores and works with stays within `bytes`
/// (infinity: none); all of them if even that is too much. The last block never is: it has the fewest rows.
std::int64_t blocks_to_recompute(const model::CausalLM& model, const model::Workload& load, double bytes);

/// One step over `samples`. `machine` measured after loading; `trained`: the parameters that a step changes.
/// `budget_bytes`: peak memory of the process, or of the device; 0: no limit. Error for a model that offers no costs.
StepPlan plan_step(const model::CausalLM& model, const AdapterImpl* adapter, const std::vector<at::Tensor>& trained,
                   const std::vector<const data::Example*>& samples, std::int64_t micro_batch_tokens,
                   double budget_bytes, const Machine& machine);

}  // namespace moelora::train
