#pragma once
// What the kinds of cells share: opening a workbench, evaluating, writing down.

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moelora/eval/evaluate.h"
#include "moelora/experiment/cell.h"
#include "moelora/io/error.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {

/// What a cell works in. The bench refers to `base`.
struct Surroundings {
  Surroundings(const ExperimentConfig& config, train::TrainConfig own, Base opened, TaskNames tasks,
               train::RunData records, const std::filesystem::path& folder, std::uint64_t seed,
               std::function<std::filesystem::path(const std::string&)> adapter_of, const std::atomic<bool>* stop);
  Surroundings(const Surroundings&) = delete;
  Surroundings& operator=(const Surroundings&) = delete;
  Base base;
  Workbench bench;
};

/// Opens base and data; the bench's configuration is that of `method` with the cell's seed, rate and steps.
std::unique_ptr<Surroundings> open_bench(const ExperimentConfig& config, const Cell& cell, const Method& method,
                                         const std::filesystem::path& output, const OpenBase& open_base,
                                         const std::atomic<bool>* stop);

/// The common configuration made `method`'s own for one run.
train::TrainConfig config_of(const ExperimentConfig& config, const Method& method, std::int64_t tasks,
                             std::uint64_t seed, double learning_rate);

/// What a cell's adapter says of itself: the program, the experiment, the seed and how prompts were written.
nlohmann::ordered_json provenance_of(const Workbench& bench);

/// Answers to `records` with the product's adapter and prompts.
std::vector<data::Record> answer(Workbench& bench, const Product& product, const std::vector<data::Record>& records);

/// Evaluation records; those of tasks that training does not have are left out, with a warning.
std::vector<data::Record> evaluation_records(const ExperimentConfig& config, const TaskNames& tasks);

/// The mean of the two middle values of an even number; nothing of none.
std::optional<double> median_of(std::vector<double> values);

/// Parameter counts of a module; a tensor that has two names (a tied head) counts once.
std::int64_t parameters_of(const torch::nn::Module& module);

/// The new-task cell and the cost cell: their own files.
nlohmann::ordered_json run_new_task(const ExperimentConfig& config, const Cell& cell,
                                    const std::filesystem::path& output, const OpenBase& open_base,
                                    const std::atomic<bool>* stop);
nlohmann::ordered_json run_cost(const ExperimentConfig& config, const Cell& cell, const std::filesystem::path& output,
                                const OpenBase& open_base, const std::atomic<bool>* stop);

}  // namespace moelora::experiment
