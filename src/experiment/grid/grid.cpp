#include "moelora/experiment/grid.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "moelora/experiment/method.h"
#include "moelora/io/error.h"
#include "moelora/io/file_name.h"
#include "moelora/io/json_file.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

std::vector<std::string> tune_ids(const ExperimentConfig& config, const std::string& method) {
  std::vector<std::string> ids;
  if (is_tuned(config, method)) {
    for (const double rate : config.tuning.learning_rates) {
      ids.push_back(tune_id(method, rate));
    }
  }
  return ids;
}

void add_sweep(const ExperimentConfig& config, const std::string& parameter, const std::string& method,
               std::vector<Cell>& cells) {
  const auto values = config.sweeps.find(parameter);
  if (values == config.sweeps.end()) {
    return;
  }
  for (const std::int64_t value : values->second) {
    Cell cell;
    cell.kind = Cell::Kind::sweep;
    cell.method = method;
    cell.parameter = parameter;
    cell.value = value;
    cell.seed = config.seeds_for(method).front();
    cell.id = sweep_id(parameter, value, cell.seed);
    cell.needs = tune_ids(config, method);
    cells.push_back(cell);
  }
}

}  // namespace

std::vector<Cell> plan_cells(const ExperimentConfig& config) {
  std::vector<Cell> cells;
  const auto ordered = [&] {  // methods that other cells are made of come first
    std::vector<std::string> methods;
    for (const bool needed : {true, false}) {
      for (const std::string& key : config.methods) {
        const Role role = find_method(key).role();
        if ((role == Role::single || role == Role::baseline) == needed) {
          methods.push_back(key);
        }
      }
    }
    return methods;
  }();
  for (const std::string& key : ordered) {
    if (!is_tuned(config, key)) {
      continue;
    }
    for (const double rate : config.tuning.learning_rates) {
      Cell cell;
      cell.kind = Cell::Kind::tune;
      cell.id = tune_id(key, rate);
      cell.method = key;
      cell.seed = config.seeds_for(key).front();
      cell.learning_rate = rate;
      cell.work = config.tuning.steps > 0
                      ? static_cast<double>(config.tuning.steps) / static_cast<double>(config.training.steps)
                      : 1.0;
      cells.push_back(cell);
    }
  }
  // Every method's first seed, then every second one: what ends early is a whole table of fewer seeds.
  std::size_t most_seeds = 0;
  for (const std::string& key : ordered) {
    most_seeds = std::max(most_seeds, config.seeds_for(key).size());
  }
  for (std::size_t place = 0; place < most_seeds; ++place) {
    for (const std::string& key : ordered) {
      const std::vector<std::uint64_t>& seeds = config.seeds_for(key);
      if (place >= seeds.size()) {
        continue;
      }
      Cell cell;
      cell.seed = seeds[place];
      cell.id = run_id(key, cell.seed);
      cell.method = key;
      cell.needs = tune_ids(config, key);
      for (const std::string& needed : find_method(key).needs()) {
        cell.needs.push_back(needed_run(config, needed, cell.seed));
      }
      cell.work = 1.5;
      cells.push_back(cell);
    }
  }
  for (const MethodPtr& method : methods()) {
    for (const SweptNumber& number : method->swept()) {
      add_sweep(config, number.parameter, method->key(), cells);
    }
  }
  const std::string& baseline = method_with(Role::baseline).key();
  for (const std::string& task : config.new_tasks.tasks) {
    Cell cell;
    cell.kind = Cell::Kind::new_task;
    cell.method = baseline;
    cell.task = task;
    cell.seed = config.seeds_for(baseline).front();
    cell.id = new_task_id(task, cell.seed);
    cell.needs = tune_ids(config, baseline);
    cell.needs.push_back(needed_run(config, method_with(Role::single).key(), cell.seed));
    cell.work = 1.6;
    cells.push_back(cell);
  }
  for (const std::string& key : ordered) {
    if (!config.costs || !find_method(key).has_cost()) {
      continue;
    }
    Cell cell;
    cell.kind = Cell::Kind::cost;
    cell.id = "cost/" + key;
    cell.method = key;
    cell.seed = config.seeds_for(key).front();
    cell.needs = {run_id(key, cell.seed)};
    cell.work = 0.1;
    cells.push_back(cell);
  }
  std::set<std::string> ids;
  for (const Cell& cell : cells) {
    // Two cells of one folder would write the same files.
    MOELORA_CHECK(ids.insert(cell.id).second, "two cells are named ", cell.id,
                  "; learning rates have to differ in their first six digits");
  }
  return cells;
}

std::string needed_run(const ExperimentConfig& config, const std::string& method, std::uint64_t seed) {
  const auto& seeds = config.seeds_for(method);
  const bool same = std::find(seeds.begin(), seeds.end(), seed) != seeds.end();
  return run_id(method, same ? seed : seeds.front());
}

std::filesystem::path cell_folder(const std::filesystem::path& output, const std::string& id) {
  return output / "cells" / id;
}

bool is_finished(const std::filesystem::path& output, const Cell& cell) {
  return std::filesystem::exists(cell_folder(output, cell.id) / "result.json");
}

nlohmann::ordered_json read_result(const std::filesystem::path& output, const std::string& id) {
  return io::read_json_file(cell_folder(output, id) / "result.json");
}

bool is_tuned(const ExperimentConfig& config, const std::string& method) {
  return config.tuning.learning_rates.size() > 1 && find_method(method).is_trained();
}

double chosen_rate(const ExperimentConfig& config, const std::filesystem::path& output, const std::string& method) {
  const auto& rates = config.tuning.learning_rates;
  if (!is_tuned(config, method)) {
    return rates.empty() ? config.training.learning_rate : rates.front();
  }
  std::optional<double> best_loss;
  double best = 0.0;
  for (const double rate : rates) {
    const auto loss = read_result(output, tune_id(method, rate)).at("validation_loss");
    if (loss.is_number() && std::isfinite(loss.get<double>()) && (!best_loss || loss.get<double>() < *best_loss)) {
      best_loss = loss.get<double>();
      best = rate;
    }
  }
  MOELORA_CHECK(best_loss, "no learning rate that was tried for ", method,
                " gives a finite validation loss; add smaller ones to tuning.learning_rates");
  return best;
}

std::string tune_id(const std::string& method, double rate) {
  return "tune/" + method + "/rate-" + io::significant(rate, 6);
}

std::string run_id(const std::string& method, std::uint64_t seed) {
  return "run/" + method + "/seed-" + std::to_string(seed);
}

std::string sweep_id(const std::string& parameter, std::int64_t value, std::uint64_t seed) {
  return "sweep/" + parameter + "-" + std::to_string(value) + "/seed-" + std::to_string(seed);
}

std::string new_task_id(const std::string& task, std::uint64_t seed) {
  return "new-task/" + io::file_name_for(task) + "/seed-" + std::to_string(seed);
}

}  // namespace moelora::experiment
