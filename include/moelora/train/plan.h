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

/// What the machine gives: measured, not looked up.
struct Machine {
  double resident_bytes = 0.0;       ///< Of this process now: the programs' libraries and what is loaded.
  double operations_per_second = 0;  ///< Of products of the model's size, with the threads set at present.
};
double resident_bytes();
/// Takes about half a second. `width`: the model's hidden_size.
Machine measure_machine(std::int64_t width, at::ScalarType dtype);

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

/// What a process of `resident` bytes, its model loaded, may use for a micro-batch's activations; infinity without a
/// budget (0).
double activation_bytes(double budget_bytes, const std::vector<at::Tensor>& trained, double resident);

/// The fewest recomputed blocks so that what a micro-batch stores and works with stays within `bytes`
/// (infinity: none); all of them if even that is too much. The last block never is: it has the fewest rows.
std::int64_t blocks_to_recompute(const model::CausalLM& model, const model::Workload& load, double bytes);

/// One step over `samples`. `machine` measured after loading; `trained`: the parameters that a step changes.
/// `budget_bytes`: peak memory of the process; 0: no limit. Error for a model that offers no costs.
StepPlan plan_step(const model::CausalLM& model, const AdapterImpl* adapter, const std::vector<at::Tensor>& trained,
                   const std::vector<const data::Example*>& samples, std::int64_t micro_batch_tokens,
                   double budget_bytes, const Machine& machine);

}  // namespace moelora::train
