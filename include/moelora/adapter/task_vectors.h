#pragma once
// Several tasks' updates composed into one without training. A task vector holds the update ΔW of every adapted linear
// for one task: tensors [d_out, d_in], fp32, on the CPU, the same order of linears and the same shapes for all tasks.
//
// Every entry of the result is computed by itself: in fp64, over the tasks in their order, rounded once to fp32. So
// nothing depends on threads, and beyond the result memory holds at most one linear's copies of tensors that aren't
// contiguous.
//
// Error: no tasks or linears, shapes, dtypes or devices that differ from the above, one λ per task missing, an option
// out of its range.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "moelora/nn/linear_delta.h"

namespace moelora {

using TaskVector = std::vector<at::Tensor>;

/// Task arithmetic (Ilharco et al., arXiv 2212.04089): Σ_t λ_t ΔW_t, one λ per task.
TaskVector task_arithmetic(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas);

struct TiesOptions {
  double density = 0.2;  ///< (0, 1]: the share of a task vector's entries that is kept.
  double lambda = 1.0;
};

/// TIES (Yadav et al., arXiv 2306.01708). Trim: each task keeps its max(1, round(density · entries)) entries of largest
/// magnitude, counted over all linears together; entries as large as the smallest one kept stay too, so magnitudes that
/// tie are treated alike. Elect: an entry's sign is that of the sum of what the tasks kept there. Mean: over the tasks
/// that kept it with that sign, times λ. Where the sum is 0 no sign wins and the result is 0 (the authors' program
/// takes the sign of the majority of all other entries there). Error also for entries that are not finite.
TaskVector ties(const std::vector<TaskVector>& tasks, const TiesOptions& options = {});

struct DareOptions {
  double drop = 0.9;       ///< p in [0, 1): the probability that an entry is dropped.
  std::uint64_t seed = 0;  ///< Of the choice of entries.
};

/// DARE (Yu et al., arXiv 2311.03099): each task drops each entry with probability p on its own, what stays is divided
/// by 1 - p; then task arithmetic. An entry stays if the upper 53 bits of m(m(m(m(seed) ^ task) ^ linear) ^ entry), as
/// a fraction in [0, 1), reach p; m is splitmix64's step, all numbers count from 0, entries row by row.
TaskVector dare(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas,
                const DareOptions& options = {});
/// The same choice and rescaling, then TIES' election and mean (nothing is trimmed further) times λ.
TaskVector dare_ties(const std::vector<TaskVector>& tasks, double lambda, const DareOptions& options = {});

/// Exact factors of a dense update [d_out, d_in] fp32, of rank min(d_out, d_in): the shorter side gets the identity,
/// (A = ΔW, B = I) or (A = I, B = ΔW); a square one gets B = I. The other factor shares the update's memory. The
/// product is ΔW exactly, if its entries are finite (a GPU must not use TF32).
nn::LowRank factors_of_dense(const at::Tensor& update);

}  // namespace moelora
