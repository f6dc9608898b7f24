#pragma once
// The cells of an experiment: the pieces of work that are run, finished and resumed each by itself.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moelora/experiment/config.h"

namespace moelora::experiment {

struct Cell {
  enum class Kind {
    tune,      ///< A method with one of the learning rates: its validation loss.
    run,       ///< A method with one seed, evaluated.
    sweep,     ///< MOELoRA with another number of experts, rank or top_k, evaluated.
    cost,      ///< Step time and latency of a method, nothing else running.
    new_task,  ///< A task that was left out, learned from a few examples.
  };
  Kind kind = Kind::run;
  std::string id;      ///< "run/moelora-d/seed-1": unique, and its folder below OUTPUT/cells
  std::string method;  ///< key of the method
  std::uint64_t seed = 0;
  double learning_rate = 0.0;      ///< tune
  std::string parameter;           ///< sweep: "num_experts", "rank", "top_k"
  std::int64_t value = 0;          ///< sweep
  std::string task;                ///< new_task
  std::vector<std::string> needs;  ///< ids of cells that must be finished before
  double work = 1.0;               ///< How long it takes, in training runs: a guess for the order and the ETA.
  bool alone() const { return kind == Kind::cost; }
};

/// All cells, those that others need first.
std::vector<Cell> plan_cells(const ExperimentConfig& config);

std::filesystem::path cell_folder(const std::filesystem::path& output, const std::string& id);
/// Whether the cell's result is there. It is written at the very end, atomically.
bool is_finished(const std::filesystem::path& output, const Cell& cell);
nlohmann::ordered_json read_result(const std::filesystem::path& output, const std::string& id);

/// Whether learning rates are tried for the method: it is trained, and there is more than one.
bool is_tuned(const ExperimentConfig& config, const std::string& method);
/// The rate of the finished tuning cell with the lowest validation loss; the configuration's own if nothing is tuned.
double chosen_rate(const ExperimentConfig& config, const std::filesystem::path& output, const std::string& method);
std::string tune_id(const std::string& method, double rate);
std::string run_id(const std::string& method, std::uint64_t seed);
std::string sweep_id(const std::string& parameter, std::int64_t value, std::uint64_t seed);
std::string new_task_id(const std::string& task, std::uint64_t seed);
/// The run of another method that a cell with this seed is made of: that of the same seed, or the method's first one.
std::string needed_run(const ExperimentConfig& config, const std::string& method, std::uint64_t seed);

}  // namespace moelora::experiment
