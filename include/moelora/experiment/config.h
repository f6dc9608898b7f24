#pragma once
// The configuration of `moelora experiment`: what is common to all rows (model, data, adapter and training sections as
// in train/config.h), and the grid: methods × seeds, learning rates that are tried for every tuned method, sweeps, new
// tasks. Unknown keys, wrong types and values out of range are all listed in one Error.

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/train/config.h"

namespace moelora::experiment {

/// Section "in_context": examples in front of the question, no training.
struct InContextSection {
  std::int64_t examples = 3;           ///< Of the same task; fewer where they don't fit.
  std::int64_t max_source_length = 0;  ///< Tokens; 0: data.max_source_length.
};

/// Section "composition": task arithmetic, TIES and DARE over the single LoRAs.
struct CompositionSection {
  std::vector<double> lambdas{0.1, 0.2, 0.3, 0.5, 0.7, 1.0};  ///< Of sums over tasks; tried on the validation part.
  std::vector<double> ties_lambdas{1.0, 2.0, 4.0, 8.0};  ///< Of TIES' mean over tasks, which is smaller than a sum.
  std::vector<double> densities{0.2, 0.5};               ///< TIES: shares of entries that are kept.
  std::vector<double> drop_rates{0.5, 0.9};              ///< DARE.
};

/// Section "lorahub".
struct LoraHubSection {
  std::int64_t examples = 16;     ///< Of the task, out of the validation part: the LoRAs have not seen them.
  std::int64_t evaluations = 40;  ///< Of the loss on them.
};

/// Section "new_tasks": each task is left out of training, then learned from a few examples.
struct NewTasksSection {
  std::vector<std::string> tasks;  ///< Empty: none.
  std::int64_t examples = 16;
  std::int64_t steps = 60;                         ///< Of fitting the embedding, and of the fresh LoRA.
  std::vector<double> learning_rates{1e-2, 1e-1};  ///< Tried by leave-out on half of the examples.
};

/// Section "tuning": every trained method is run with each rate; the lowest validation loss wins.
struct TuningSection {
  std::vector<double> learning_rates;  ///< One or more. A single one is taken as it is.
  std::int64_t steps = 0;              ///< 0: as many as the runs have.
};

/// Section "sweeps": MOELoRA (D) with other numbers (top_k: MOELoRA (S)), the first seed.
struct SweepsSection {
  std::vector<std::int64_t> num_experts;
  std::vector<std::int64_t> rank;
  std::vector<std::int64_t> top_k;
};

struct ExperimentConfig {
  std::string title = "Methods compared";
  train::ModelSection model;
  MoeLoraConfig adapter;
  train::DataSection data;
  std::string evaluation;          ///< File of records that are scored once for each finished run. Required.
  std::string scorer = "moelora";  ///< A scorer's name or file, as eval::scorer_from takes it.
  std::string task_prompts;        ///< File of descriptions by task, for the rows that put them into the prompt.
  train::TrainingOptions training;
  std::int64_t eval_batch_size = 32;
  std::vector<std::string> methods;     ///< Keys of rows; empty: all.
  std::vector<std::uint64_t> seeds{1};  ///< Of every row not in seeds_of.
  std::map<std::string, std::vector<std::uint64_t>> seeds_of;
  double balance_loss = 0.01;       ///< MoLoRA's.
  std::int64_t sparse_top_k = 2;    ///< MOELoRA (S)'s.
  std::int64_t prefix_length = 16;  ///< P-Tuning v2's.
  TuningSection tuning;
  SweepsSection sweeps;
  InContextSection in_context;
  CompositionSection composition;
  LoraHubSection lorahub;
  NewTasksSection new_tasks;
  bool costs = true;             ///< Measure step times and latencies, one method at a time.
  std::int64_t cost_rounds = 8;  ///< Pairs of steps.
  std::int64_t jobs = 0;         ///< Cells at one time; 0: one for each core. Each has its share of the cores.

  static ExperimentConfig from_json(const nlohmann::ordered_json& json);
  const std::vector<std::uint64_t>& seeds_for(const std::string& method) const;
  bool has(const std::string& method) const;  ///< Whether it is one of `methods`.
};

}  // namespace moelora::experiment
