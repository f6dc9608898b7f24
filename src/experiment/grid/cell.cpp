#include "moelora/experiment/cell.h"

#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>

#include "experiment/grid/bench.h"
#include "moelora/data/task_prompts.h"
#include "moelora/eval/scorer.h"
#include "moelora/experiment/inputs.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/train/diverged.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;
using SteadyClock = std::chrono::steady_clock;

double peak_memory_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024.0;
}

ordered_json tune(Workbench& bench, const Method& method, bool& stopped) {
  ordered_json result{{"learning_rate", bench.config.training.learning_rate}};
  try {
    const Product product = method.make(bench);
    stopped = product.stopped;
    result["validation_loss"] =
        product.validation_loss ? ordered_json(*product.validation_loss) : ordered_json(nullptr);
  } catch (const train::TrainingDiverged& error) {
    result["validation_loss"] = nullptr;  // this rate is too large
    result["diverged"] = error.what();
  }
  return result;
}

ordered_json run(Workbench& bench, const Method& method, bool& stopped) {
  const Product product = method.make(bench);
  stopped = product.stopped;
  if (stopped) {
    return {};
  }
  ordered_json result{{"learning_rate",
                       method.is_trained() ? ordered_json(bench.config.training.learning_rate) : ordered_json(nullptr)},
                      {"steps", product.steps},
                      {"trained_parameters", product.trained_parameters},
                      {"gate_parameters", product.gate_parameters},
                      {"peak_memory_bytes", peak_memory_bytes()}};
  result["training_seconds"] =
      product.training_seconds ? ordered_json(*product.training_seconds) : ordered_json(nullptr);
  result["validation_loss"] = product.validation_loss ? ordered_json(*product.validation_loss) : ordered_json(nullptr);
  result["details"] = product.details;
  result["base_parameters"] = parameters_of(*bench.base.model);
  if (product.adapter) {
    const std::vector<std::vector<float>> weights = product.adapter->expert_weights_by_task();
    for (std::size_t task = 0; task < weights.size(); ++task) {
      result["expert_weights"][bench.tasks.name(static_cast<std::int64_t>(task))] = weights[task];
    }
  }
  data::write_records(bench.folder / "predictions.json",
                      answer(bench, product, evaluation_records(bench.experiment, bench.tasks)));
  return result;
}

void apply_sweep(const Cell& cell, MoeLoraConfig& adapter) {
  for (const SweptNumber& number : find_method(cell.method).swept()) {
    if (number.parameter == cell.parameter) {
      number.set(adapter, cell.value);
    }
  }
  adapter.validate();
}

}  // namespace

train::TrainConfig config_of(const ExperimentConfig& config, const Method& method, std::int64_t tasks,
                             std::uint64_t seed, double learning_rate) {
  train::TrainConfig own;
  own.model = config.model;
  own.adapter = config.adapter;
  own.data = config.data;
  own.training = config.training;
  own.training.seed = seed;
  own.adapter.seed = seed;
  own.training.learning_rate = learning_rate;
  method.configure(config, tasks, own);
  return own;
}

std::unique_ptr<Surroundings> open_bench(const ExperimentConfig& config, const Cell& cell, const Method& method,
                                         const std::filesystem::path& output, const OpenBase& open_base,
                                         const std::atomic<bool>* stop) {
  for (const std::string& needed : cell.needs) {
    MOELORA_CHECK(std::filesystem::exists(cell_folder(output, needed) / "result.json"), cell.id, " needs ", needed,
                  ", which is not finished; run that cell first");
  }
  if (config.training.threads > 0) {
    at::set_num_threads(static_cast<int>(config.training.threads));
  }
  // One validation part for all seeds: they are tuned and compared on the same records.
  train::RunData records = train::read_run_data(config.data, config.training.seed);
  TaskNames tasks(data::task_names_of(records.train));
  const double rate = cell.kind == Cell::Kind::tune ? cell.learning_rate : chosen_rate(config, output, cell.method);
  train::TrainConfig own = config_of(config, method, tasks.size(), cell.seed, rate);
  if (cell.kind == Cell::Kind::tune && config.tuning.steps > 0) {
    own.training.steps = config.tuning.steps;
    own.training.warmup_steps = std::min(own.training.warmup_steps, own.training.steps / 4);
  }
  const std::filesystem::path folder = cell_folder(output, cell.id);
  std::function<std::filesystem::path(const std::string&)> adapter_of = [&config, output,
                                                                         seed = cell.seed](const std::string& key) {
    return cell_folder(output, needed_run(config, key, seed)) / "run" / "adapter";
  };
  return std::make_unique<Surroundings>(config, std::move(own), open_base(config.model), std::move(tasks),
                                        std::move(records), folder, cell.seed, std::move(adapter_of), stop);
}

ordered_json check_inputs(const ExperimentConfig& config) {
  const train::RunData records = train::read_run_data(config.data, config.training.seed);
  const TaskNames tasks(data::task_names_of(records.train));
  const std::vector<data::Record> references = evaluation_records(config, tasks);
  eval::check_scorer(eval::scorer_from(config.scorer), references);
  const auto prompts = data::TaskPrompts::from_file(config.task_prompts);
  train::warn_of_shared_questions(records.train, references, config.evaluation);
  for (const std::string& task : tasks.names()) {
    if (!prompts.empty()) {
      prompts.text(task);
    }
  }
  for (const std::string& task : config.new_tasks.tasks) {
    tasks.index(task);
    MOELORA_CHECK(tasks.size() > 1, "new task ", task, " is the only task: there would be none to train on");
    MOELORA_CHECK(
        std::any_of(references.begin(), references.end(),
                    [&](const data::Record& record) { return record.task == task && eval::has_target(record); }),
        config.evaluation, " has no record with a target of the new task ", task);
  }
  for (const data::Record& record : records.validation) {
    MOELORA_CHECK(tasks.contains(record.task), "the validation records have task ", record.task,
                  ", which no training record has");
  }
  for (const Cell& cell : plan_cells(config)) {
    MoeLoraConfig adapter = config_of(config, find_method(cell.method), tasks.size(), cell.seed, 1.0).adapter;
    try {
      if (cell.kind == Cell::Kind::sweep) {
        apply_sweep(cell, adapter);
      }
      adapter.validate();
    } catch (const Error& error) {
      throw Error(cell.id + ": " + error.what());
    }
  }
  const bool needs_validation = config.tuning.learning_rates.size() > 1 ||
                                std::any_of(config.methods.begin(), config.methods.end(),
                                            [](const std::string& key) { return find_method(key).needs_validation(); });
  MOELORA_CHECK(!needs_validation || !records.validation.empty(),
                "learning rates, λ and LoRAHub's weights are chosen on a validation part, but there is none; set "
                "data.validation_size or ",
                "data.validation");
  return input_hashes(config, records, references);
}

bool run_cell(const ExperimentConfig& config, const Cell& cell, const std::filesystem::path& output,
              const OpenBase& open_base, const std::atomic<bool>* stop) {
  ordered_json inputs = input_hashes(config);
  if (is_finished(output, cell)) {
    check_inputs_of_finished({cell}, output, inputs);
    return true;
  }
  const OpenBase open_and_note = [&](const train::ModelSection& section) {
    Base base = open_base(section);
    inputs["base"] = base.fingerprint;
    return base;
  };
  const auto begin = SteadyClock::now();
  const std::filesystem::path folder = cell_folder(output, cell.id);
  std::filesystem::create_directories(folder);
  bool stopped = false;
  ordered_json result;
  try {
    if (cell.kind == Cell::Kind::cost) {
      result = run_cost(config, cell, output, open_and_note, stop);
    } else if (cell.kind == Cell::Kind::new_task) {
      result = run_new_task(config, cell, output, open_and_note, stop);
      stopped = result.is_null();
    } else {
      const Method& method = find_method(cell.method);
      const auto around = open_bench(config, cell, method, output, open_and_note, stop);
      if (cell.kind == Cell::Kind::sweep) {
        apply_sweep(cell, around->bench.config.adapter);
      }
      result =
          cell.kind == Cell::Kind::tune ? tune(around->bench, method, stopped) : run(around->bench, method, stopped);
    }
  } catch (const Stopped&) {
    stopped = true;
  }
  if (stopped) {
    return false;
  }
  result["inputs"] = inputs;
  // Time of this session: what the guess of the remaining time is made of.
  result["seconds"] = std::chrono::duration<double>(SteadyClock::now() - begin).count();
  io::write_json_file(folder / "result.json", result);
  std::error_code ignored;
  std::filesystem::remove_all(folder / "run" / "checkpoints", ignored);
  std::filesystem::remove_all(folder / "tasks", ignored);  // runs of single tasks, which run/adapter holds
  if (cell.kind == Cell::Kind::tune) {
    std::filesystem::remove_all(folder / "run", ignored);
  } else if (!config.keep_adapters) {
    for (const char* product : {"adapter", "model"}) {
      std::filesystem::remove_all(folder / "run" / product, ignored);
    }
  }
  std::filesystem::remove(folder / "status", ignored);
  return true;
}

}  // namespace moelora::experiment
