#pragma once
// LoRAHub (Huang et al., arXiv 2307.13269): LoRAs of several tasks composed into one for a new task, with weights found
// by a search without gradients on a few examples of that task.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moelora/nn/linear_delta.h"

namespace moelora {

/// The authors' composition, on the factors: A = Σ w_t A_t [r, d_in], B = Σ w_t B_t [d_out, r], so the update also has
/// the products of one LoRA's B with another's A. fp32, summed in fp64. Error: no LoRAs, shapes or ranks that differ,
/// one weight per LoRA missing.
nn::LowRank compose_factors(const std::vector<nn::LowRank>& loras, const std::vector<double>& weights);

/// Σ w_t B_t A_t without products across LoRAs: the A_t stacked [Σ r_t, d_in], the w_t B_t, each entry rounded once,
/// side by side [d_out, Σ r_t]. Ranks may differ.
nn::LowRank compose_updates(const std::vector<nn::LowRank>& loras, const std::vector<double>& weights);

/// Empty, or why this build has no search_weights() and how to get it (CMake option MOELORA_LORAHUB).
std::string lorahub_missing();

struct LoraHubOptions {
  double bound = 1.5;             ///< Weights lie in [-bound, bound].
  double l1 = 0.05;               ///< The search minimises loss(w) + l1 · mean |w_t|.
  std::int64_t evaluations = 40;  ///< At most as many calls of the loss.
  std::uint64_t seed = 0;         ///< Of the order in which the search tries the weights.
};

struct LoraHubResult {
  std::vector<double> weights;   ///< The best that were evaluated.
  double loss = 0;               ///< Of those weights, without the penalty.
  double objective = 0;          ///< The same with it.
  std::int64_t evaluations = 0;  ///< Calls of the loss; fewer than allowed if the weights stood still before.
};

/// Weights for `count` LoRAs. The loss is called from this thread, first with all weights 0, so the result is never
/// worse than no composition. The same seed and the same losses give the same calls. A loss that is not finite counts
/// as very large. What the loss throws ends the search and reaches the caller. Error: count < 1, an option out of its
/// range, no finite loss at all, a build without it.
LoraHubResult search_weights(std::int64_t count, const std::function<double(const std::vector<double>&)>& loss,
                             const LoraHubOptions& options = {});

}  // namespace moelora
