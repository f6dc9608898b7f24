#pragma once
// The configuration of `moelora experiment`: what is common to all methods (model, data, adapter and training sections
// as in train/config.h), and the grid: methods × seeds, learning rates that are tried for every tuned method, sweeps,
// new tasks. Unknown keys, wrong types and values out of range are all listed in one Error.

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moelora/experiment/own_settings.h"
#include "moelora/io/field_visitors.h"
#include "moelora/train/config.h"

namespace moelora::experiment {

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

struct ExperimentConfig {
  std::string title = "Methods compared";
  train::ModelSection model;
  MoeLoraConfig adapter;
  train::DataSection data;
  std::string evaluation;          ///< File of records that are scored once for each finished run. Required.
  std::string scorer = "moelora";  ///< A scorer's name or file, as eval::scorer_from takes it.
  std::string task_prompts;        ///< File of descriptions by task, for the methods that put them into the prompt.
  train::TrainingOptions training;
  std::int64_t eval_batch_size = 32;
  std::vector<std::string> methods;     ///< Keys of methods; empty: all.
  std::vector<std::uint64_t> seeds{1};  ///< Of every method not in seeds_of.
  std::map<std::string, std::vector<std::uint64_t>> seeds_of;
  AllOwnSettings own;  ///< Keys that belong to single methods; they stand in their files.
  TuningSection tuning;
  /// Section "sweeps": values of a method's SweptNumber, by its parameter, on the first seed.
  std::map<std::string, std::vector<std::int64_t>> sweeps;
  NewTasksSection new_tasks;
  bool costs = true;             ///< Measure step times and latencies, one method at a time.
  std::int64_t cost_rounds = 8;  ///< Pairs of steps.
  bool keep_adapters = true;     ///< false: the folders of finished runs hold results, answers and logs alone.
  std::int64_t jobs = 0;         ///< Cells at one time; 0: one for each core. Each has its share of the cores.

  static ExperimentConfig from_json(const nlohmann::ordered_json& json);
  nlohmann::ordered_json to_json() const;  ///< Every key with its value, defaults too.
  const std::vector<std::uint64_t>& seeds_for(const std::string& method) const;
  bool has(const std::string& method) const;  ///< Whether it is one of `methods`.
};

/// All keys with their sections, the model's, adapter's, data's and training's too.
const io::FieldList& experiment_fields();

/// Every key's default with its meaning, as JSON with comment lines; "FOLDER" and "FILE" stand for what has none.
std::string documented_default_experiment();

}  // namespace moelora::experiment
