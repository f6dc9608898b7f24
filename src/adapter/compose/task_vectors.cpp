#include "moelora/adapter/task_vectors.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>

#include "moelora/io/error.h"
#include "moelora/io/splitmix64.h"

namespace moelora {
namespace {

void check_task_vectors(const std::vector<TaskVector>& tasks) {
  MOELORA_CHECK(!tasks.empty(), "expected task vectors to compose, found none; pass one for each task");
  const TaskVector& first = tasks.front();
  MOELORA_CHECK(!first.empty(), "expected updates in task vector 0, found none; pass one for each adapted linear");
  for (std::size_t task = 0; task < tasks.size(); ++task) {
    MOELORA_CHECK(tasks[task].size() == first.size(), "expected ", first.size(), " linears in task vector ", task,
                  " as in task vector 0, found ", tasks[task].size(), "; all tasks need the same linears in one order");
    for (std::size_t linear = 0; linear < first.size(); ++linear) {
      const at::Tensor& update = tasks[task][linear];
      MOELORA_CHECK(update.defined() && update.dim() == 2 && update.scalar_type() == at::kFloat && update.is_cpu(),
                    "expected a float32 matrix on the CPU as linear ", linear, " of task vector ", task, ", found ",
                    update.defined() ? detail::concat(update.toString(), " ", update.sizes()) : "nothing",
                    "; pass the update B A as .to(at::kCPU, at::kFloat)");
      MOELORA_CHECK(update.sizes() == first[linear].sizes(), "expected shape ", first[linear].sizes(), " for linear ",
                    linear, " of task vector ", task, " as in task vector 0, found ", update.sizes(),
                    "; all tasks need the same linears in one order");
    }
  }
}

void check_lambdas(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas) {
  MOELORA_CHECK(lambdas.size() == tasks.size(), "expected one lambda for each of ", tasks.size(), " tasks, found ",
                lambdas.size(), "; pass as many as there are task vectors");
}

/// The result whose entry i of a linear is combine(linear, i, values of the tasks' tensors).
template <typename Combine>
TaskVector compose_entries(const std::vector<TaskVector>& tasks, const Combine& combine) {
  at::NoGradGuard no_grad;
  TaskVector result;
  result.reserve(tasks.front().size());
  for (std::size_t linear = 0; linear < tasks.front().size(); ++linear) {
    std::vector<at::Tensor> sources;
    std::vector<const float*> values;
    for (const auto& task : tasks) {
      sources.push_back(task[linear].contiguous());
      values.push_back(sources.back().const_data_ptr<float>());
    }
    at::Tensor out = at::empty(sources.front().sizes(), sources.front().options());
    auto* to = out.mutable_data_ptr<float>();
    at::parallel_for(0, out.numel(), 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        to[i] = static_cast<float>(combine(linear, i, values));
      }
    });
    result.push_back(std::move(out));
  }
  return result;
}

/// Σ_t λ_t v_t, where v_t = value(t, linear, i, entry of task t).
template <typename Value>
TaskVector add_scaled(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas, const Value& value) {
  return compose_entries(tasks, [&](std::size_t linear, std::int64_t i, const std::vector<const float*>& entries) {
    double sum = 0;
    for (std::size_t task = 0; task < entries.size(); ++task) {
      sum += lambdas[task] * value(task, linear, i, entries[task][i]);
    }
    return sum;
  });
}

/// λ times the mean of the v_t that have the sign of their sum; v_t = 0 takes no part.
template <typename Value>
TaskVector elect_and_average(const std::vector<TaskVector>& tasks, double lambda, const Value& value) {
  return compose_entries(tasks, [&](std::size_t linear, std::int64_t i, const std::vector<const float*>& entries) {
    double positive = 0, negative = 0;
    std::int64_t positives = 0, negatives = 0;
    for (std::size_t task = 0; task < entries.size(); ++task) {
      const double v = value(task, linear, i, entries[task][i]);
      if (v > 0) {
        positive += v;
        ++positives;
      } else if (v < 0) {
        negative -= v;
        ++negatives;
      }
    }
    if (positive > negative) {
      return lambda * (positive / static_cast<double>(positives));
    }
    return negative > positive ? lambda * (-negative / static_cast<double>(negatives)) : 0.0;
  });
}

/// Bits of |x|: they are ordered as the magnitudes are.
std::uint32_t magnitude_bits(float x) { return std::bit_cast<std::uint32_t>(x) & 0x7fffffffu; }

constexpr std::uint32_t kAnyUpperHalf = ~0u;

/// How many entries have which upper 16 bits of magnitude; with `upper`, which lower 16 bits among those.
std::vector<std::int64_t> count_magnitudes(const TaskVector& task, std::uint32_t upper) {
  std::vector<std::int64_t> counts(65536, 0);
  std::mutex adding;
  for (const auto& update : task) {
    const at::Tensor source = update.detach().contiguous();
    const auto* values = source.const_data_ptr<float>();
    at::parallel_for(0, source.numel(), 1 << 20, [&](std::int64_t begin, std::int64_t end) {
      std::vector<std::int64_t> part(counts.size(), 0);
      for (std::int64_t i = begin; i < end; ++i) {
        const std::uint32_t bits = magnitude_bits(values[i]);
        if (upper == kAnyUpperHalf) {
          ++part[bits >> 16];
        } else if (bits >> 16 == upper) {
          ++part[bits & 0xffffu];
        }
      }
      const std::lock_guard<std::mutex> lock(adding);
      std::transform(part.begin(), part.end(), counts.begin(), counts.begin(), std::plus<>());
    });
  }
  return counts;
}

/// The bin that holds the `rank`-th entry (from 1) counted from the top; `rank` becomes its rank within the bin.
std::uint32_t bin_from_top(const std::vector<std::int64_t>& counts, std::int64_t& rank) {
  auto bin = static_cast<std::uint32_t>(counts.size() - 1);
  while (rank > counts[bin]) {
    rank -= counts[bin--];
  }
  return bin;
}

/// Bits of the smallest magnitude that task `number` keeps: two passes over its entries, no copy, no sort.
std::uint32_t trim_threshold(const TaskVector& task, std::size_t number, double density) {
  std::int64_t entries = 0;
  for (const auto& update : task) {
    entries += update.numel();
  }
  if (entries == 0) {
    return 0;
  }
  auto rank = std::max<std::int64_t>(1, std::llround(density * static_cast<double>(entries)));
  const auto by_upper = count_magnitudes(task, kAnyUpperHalf);
  MOELORA_CHECK(std::all_of(by_upper.begin() + 0x7f80, by_upper.end(), [](std::int64_t count) { return count == 0; }),
                "expected finite entries in task vector ", number,
                ", found infinities or NaNs; check the adapter that it comes from");
  const std::uint32_t upper = bin_from_top(by_upper, rank);
  return (upper << 16) | bin_from_top(count_magnitudes(task, upper), rank);
}

/// An entry of a task after DARE: 0 or rescaled.
class DareValue {
 public:
  DareValue(const std::vector<TaskVector>& tasks, const DareOptions& options)
      : drop_(options.drop), keep_(1.0 - options.drop), linears_(tasks.front().size()) {
    MOELORA_CHECK(options.drop >= 0.0 && options.drop < 1.0, "expected a drop probability in [0, 1), found ",
                  options.drop, "; 0 drops nothing");
    for (std::uint64_t task = 0; task < tasks.size(); ++task) {
      for (std::uint64_t linear = 0; linear < linears_; ++linear) {
        stems_.push_back(io::splitmix(io::splitmix(io::splitmix(options.seed) ^ task) ^ linear));
      }
    }
  }
  double operator()(std::size_t task, std::size_t linear, std::int64_t i, float x) const {
    const std::uint64_t hash = io::splitmix(stems_[task * linears_ + linear] ^ static_cast<std::uint64_t>(i));
    return static_cast<double>(hash >> 11) * 0x1p-53 >= drop_ ? x / keep_ : 0.0;
  }

 private:
  double drop_;
  double keep_;
  std::size_t linears_;
  std::vector<std::uint64_t> stems_;  // [tasks, linears]
};

}  // namespace

TaskVector task_arithmetic(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas) {
  check_task_vectors(tasks);
  check_lambdas(tasks, lambdas);
  return add_scaled(tasks, lambdas, [](std::size_t, std::size_t, std::int64_t, float x) { return double{x}; });
}

TaskVector ties(const std::vector<TaskVector>& tasks, const TiesOptions& options) {
  check_task_vectors(tasks);
  MOELORA_CHECK(options.density > 0.0 && options.density <= 1.0, "expected a density in (0, 1], found ",
                options.density, "; 1 keeps all entries");
  std::vector<std::uint32_t> thresholds;
  for (std::size_t task = 0; task < tasks.size(); ++task) {
    thresholds.push_back(trim_threshold(tasks[task], task, options.density));
  }
  return elect_and_average(tasks, options.lambda, [&](std::size_t task, std::size_t, std::int64_t, float x) {
    return magnitude_bits(x) >= thresholds[task] ? double{x} : 0.0;
  });
}

TaskVector dare(const std::vector<TaskVector>& tasks, const std::vector<double>& lambdas, const DareOptions& options) {
  check_task_vectors(tasks);
  check_lambdas(tasks, lambdas);
  return add_scaled(tasks, lambdas, DareValue(tasks, options));
}

TaskVector dare_ties(const std::vector<TaskVector>& tasks, double lambda, const DareOptions& options) {
  check_task_vectors(tasks);
  return elect_and_average(tasks, lambda, DareValue(tasks, options));
}

nn::LowRank factors_of_dense(const at::Tensor& update) {
  MOELORA_CHECK(update.defined() && update.dim() == 2 && update.scalar_type() == at::kFloat,
                "expected an update as a float32 matrix, found ",
                update.defined() ? detail::concat(update.toString(), " ", update.sizes()) : "nothing",
                "; pass ΔW [d_out, d_in]");
  const at::Tensor dense = update.detach();
  if (dense.size(0) <= dense.size(1)) {
    return {dense, at::eye(dense.size(0), dense.options())};
  }
  return {at::eye(dense.size(1), dense.options()), dense};
}

}  // namespace moelora
