#pragma once
// What an experiment found: methods × seeds on one set of references, sweeps over single settings, and what was
// measured beside the scores. Plain data, filled by whoever runs the experiment; report.h computes statistics from it.
// Whatever is absent (no runs, no value, 0 where a count is meant) is shown as "–".

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/eval/report.h"
#include "moelora/eval/scorer.h"

namespace moelora::experiment {

/// One finished, evaluated run. Two methods are compared on the seeds that both have, with all their runs where none is
/// common (eval/resampling.h). The intervals of a method with one run hold no variance between seeds: it is marked.
struct Run {
  std::uint64_t seed = 0;
  std::vector<data::Record> predictions;  ///< `target` is the model's answer; in the order of the references
};

/// A quotient of measured times with its 95 % interval.
struct Ratio {
  double median = 0;
  double low = 0;
  double high = 0;
};

/// One method.
struct MethodResults {
  std::string key;        ///< e.g. "moelora-d"; unique
  std::string title;      ///< e.g. "MOELoRA (D)"
  std::string note;       ///< may be empty
  std::vector<Run> runs;  ///< empty: not finished
  std::optional<double> learning_rate;
  std::optional<double> validation_loss;  ///< of the best step, mean over the runs
  std::int64_t steps = 0;
  std::int64_t trained_parameters = 0;  ///< the gate's included
  std::int64_t gate_parameters = 0;
  std::optional<double> training_seconds;   ///< of one run
  std::string cost_note;                    ///< beside the training time, e.g. "+ LoRA (Single)"; may be empty
  std::optional<double> peak_memory_bytes;  ///< while training
  /// Time of a step (forward, backward, optimizer) over that of the method Results::equal_to.
  std::optional<Ratio> step_ratio;
  std::optional<double> ms_per_token;  ///< generating, adapter attached; none where nobody would serve it so
  std::optional<double> ms_per_token_merged;
  std::string not_merged;  ///< Why there is no merged latency; empty: mergeable.
};

/// One value of one setting.
struct SweepPoint {
  std::string parameter;  ///< e.g. "experts"; points of the same parameter make one chart
  std::int64_t value = 0;
  std::string title;
  std::vector<Run> runs;
  std::int64_t trained_parameters = 0;
  bool reference = false;  ///< the common setting's value; its runs are a method's: marked in the figure
};

struct ExpertWeights {
  std::string title;
  std::vector<std::string> tasks;
  std::vector<std::vector<double>> weights;  ///< [tasks][N]
};

struct NewTaskEntry {
  std::string title;
  std::int64_t trained_parameters = 0;
  std::vector<Run> runs;
};

/// A task that was learned afterwards, from a few examples.
struct NewTask {
  std::string task;
  std::int64_t examples = 0;
  std::vector<data::Record> references;
  std::vector<NewTaskEntry> entries;
};

/// How a learning rate was chosen: the smallest validation loss.
struct Tuning {
  std::string title;
  std::vector<std::pair<double, double>> losses;  ///< learning rate, validation loss (not finite: diverged)
};

struct Results {
  std::string title;
  eval::Facts facts;
  std::vector<data::Record> references;  ///< of all methods and sweeps
  eval::Scorer scorer;                   ///< of all methods
  std::optional<eval::Scores> majority;  ///< eval::majority_scores
  std::int64_t base_parameters = 0;
  std::vector<MethodResults> methods;
  std::string base;      ///< key of the method without training: never marked best
  std::string baseline;  ///< key of the method that others are compared with
  std::string single;    ///< key of one adapter per task: gains and losses are against it
  std::string equal_to;  ///< key of the method whose parameters and step time are the measure
  std::vector<SweepPoint> sweeps;
  std::vector<ExpertWeights> expert_weights;
  std::vector<NewTask> new_tasks;
  std::vector<Tuning> tunings;
  std::vector<std::string> notes;
};

}  // namespace moelora::experiment
