#pragma once
// How far scores can be trusted: per-sample statistics from which a task's score can be computed anew for any choice of
// its samples, and the percentile bootstrap over them (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
// One resample draws every task's samples with replacement, as many as the task has, and every row's runs likewise. All
// rows see the same drawn samples. Two rows are compared on the seeds that both have, with the same drawn runs of each,
// so differences are paired; rows without a common seed are compared with all their runs, drawn independently. A row
// with one run has no spread of seeds; with few runs it is understated.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/eval/answers.h"
#include "moelora/eval/metrics.h"
#include "moelora/eval/scorer.h"
#include "moelora/eval/segmenter.h"

namespace moelora::eval {

/// One label per sample, as numbers in the labels' order.
struct NumberedLabels {
  struct Pair {
    std::int32_t truth = 0;
    std::int32_t answer = 0;
  };
  std::vector<Pair> samples;
  std::int32_t labels = 0;
};

/// A sample that counts as `weight` ones with this sum.
struct WeightedValue {
  double sum = 0;
  double weight = 1;
};

/// One task's samples in the order of the references, each with what it contributes to the score.
struct TaskSamples {
  std::string task;
  Metric metric = Metric::micro_f1;
  /// F1 of items; of labels; Rouge-L of each sample.
  std::variant<std::vector<ItemCounts>, NumberedLabels, std::vector<WeightedValue>> parts;

  std::int32_t count() const;
};

class ScoredRun {
 public:
  /// Errors as eval::score, whose scores these are.
  static ScoredRun from(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
                        const Scorer& scorer = {}, const Segmenter& segmenter = default_segmenter());

  const std::vector<TaskSamples>& tasks() const { return tasks_; }  ///< In the order of Scores::tasks.
  const std::string& segmentation() const { return segmentation_; }
  /// The score of these samples (indices below the task's count; repeated ones count repeatedly); 0 for none.
  double score(std::size_t task, std::span<const std::int32_t> samples) const;
  double score(std::size_t task) const;  ///< of all samples
  double average() const;                ///< mean of the tasks' scores

 private:
  std::vector<TaskSamples> tasks_;
  std::string segmentation_;
};

struct BootstrapOptions {
  std::int64_t resamples = 1000;
  std::uint64_t seed = 2310'18339;
  double level = 0.95;  ///< of the intervals, in (0, 1)
};

/// Several runs of one method: a run for each seed.
struct BootstrapRow {
  std::vector<std::uint64_t> seeds;
  std::vector<ScoredRun> runs;  ///< empty: the row has no score
};

struct Interval {
  double value = 0;  ///< without resampling; a row's value is the mean over its runs
  double low = 0;
  double high = 0;
};

struct Difference {
  Interval interval;
  double share_not_above = 0;  ///< share of resamples whose difference is ≤ 0
  /// Runs on each side, of the common seeds; without common ones, runs of the row with fewer. 1: no spread of seeds.
  std::int64_t seeds = 0;
};

class Bootstrap {
 public:
  /// Error: runs and seeds differ in number, runs of different tasks or samples, options out of range.
  explicit Bootstrap(const std::vector<BootstrapRow>& rows, const BootstrapOptions& options = {});

  /// None where a row has no runs.
  std::optional<Interval> score(std::size_t row, std::size_t task) const;
  std::optional<Interval> average(std::size_t row) const;  ///< over tasks
  /// `row` minus `baseline`, paired, on the seeds that both have: not always the difference of the rows' scores.
  std::optional<Difference> difference(std::size_t row, std::size_t baseline, std::size_t task) const;
  std::optional<Difference> average_difference(std::size_t row, std::size_t baseline) const;

 private:
  struct Resampled {
    double value = 0;
    std::vector<double> resamples;
  };
  struct ResampledRun {
    std::uint64_t seed = 0;
    std::vector<Resampled> tasks;
  };
  using Runs = std::vector<const ResampledRun*>;

  static Runs common_runs(const std::vector<ResampledRun>& row, const std::vector<ResampledRun>& other);
  Resampled mean_of(const Runs& runs, std::size_t column) const;
  Interval interval_of(double value, std::vector<double> resamples) const;
  std::optional<Interval> interval(std::size_t row, std::size_t column) const;
  std::optional<Difference> column_difference(std::size_t row, std::size_t baseline, std::size_t column) const;

  BootstrapOptions options_;
  std::size_t tasks_ = 0;                        // also the column of the average
  std::vector<std::vector<ResampledRun>> rows_;  // of each row, in the order of the seeds
};

}  // namespace moelora::eval
