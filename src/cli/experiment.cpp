// moelora experiment: methods × seeds × sweeps on one base and one set of records, one table.

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/numbers.h"
#include "cli/session.h"
#include "cli/stop.h"
#include "cli/verbs.h"
#include "moelora/experiment/cell.h"
#include "moelora/experiment/collect.h"
#include "moelora/experiment/inputs.h"
#include "moelora/experiment/method.h"
#include "moelora/experiment/report.h"
#include "moelora/experiment/schedule.h"
#include "moelora/io/error.h"
#include "moelora/io/folder_lock.h"
#include "moelora/io/json_file.h"
#include "moelora/log/log.h"

namespace moelora::cli {
namespace {

using experiment::Cell;
using experiment::ExperimentConfig;
using nlohmann::ordered_json;

constexpr int kInterrupted = 130;  // as a shell reports a program that SIGINT ended
constexpr const char* kConfigFile = "config.json";

struct ExperimentVerbOptions {
  std::filesystem::path config;
  std::vector<std::string> overrides;
  std::filesystem::path output;
  bool resume = false;
  bool list = false;
  bool report_only = false;
  bool print_config = false;
  std::string cell;
  std::int64_t jobs = -1;
};

experiment::Base open_base(const train::ModelSection& section, const std::string& chat_template) {
  auto session = std::make_shared<Session>(open_model(section, chat_template));
  experiment::Base base;
  base.model = session->model;
  base.tokenizer = session->tokenizer;
  base.fingerprint = session->base_fingerprint;
  base.save = [session, section](const std::filesystem::path& folder) { save_model(*session, folder, section); };
  return base;
}

/// Keys whose values differ, as "a.b: X, now Y".
void list_changes(const ordered_json& then, const ordered_json& now, const std::string& where, std::string& text) {
  if (then.is_object() && now.is_object()) {
    ordered_json keys = then;
    keys.update(now);
    for (const auto& [key, ignored] : keys.items()) {
      list_changes(then.value(key, ordered_json()), now.value(key, ordered_json()),
                   where.empty() ? key : where + "." + key, text);
    }
  } else if (then != now) {
    text += "\n  " + where + ": " + then.dump() + ", now " + now.dump();
  }
}

/// The configuration as it is run: with overrides, jobs and threads. On resuming, the folder's own, if that is the
/// same.
ordered_json effective_config(const ExperimentVerbOptions& options) {
  ordered_json json = io::read_json_file(options.config);
  MOELORA_CHECK(json.is_object(), options.config.string(), ": expected an object, found ", json.type_name());
  for (const std::string& assignment : options.overrides) {
    train::apply_override(json, assignment);
  }
  if (options.jobs >= 0) {
    json["jobs"] = options.jobs;
  }
  const auto cores = static_cast<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()));
  const auto number_at = [](const ordered_json& section, const char* key) {
    const auto found = section.is_object() ? section.find(key) : section.end();
    return section.is_object() && found != section.end() && found->is_number() ? found->get<std::int64_t>() : 0;
  };
  if (!json.contains("jobs") || (json["jobs"].is_number() && number_at(json, "jobs") <= 0)) {
    json["jobs"] = cores;
  }
  const bool threads_given = json.contains("training") && number_at(json["training"], "threads") > 0;
  const std::int64_t jobs = number_at(json, "jobs");
  if (!threads_given && jobs > 0 && (!json.contains("training") || json["training"].is_object())) {
    json["training"]["threads"] = std::max<std::int64_t>(1, cores / jobs);
  }
  ExperimentConfig::from_json(json);  // wrong types and values are named before anything is compared
  const std::filesystem::path stored = options.output / kConfigFile;
  if (options.output.empty() || !std::filesystem::exists(stored)) {
    return json;
  }
  ordered_json then = io::read_json_file(stored);
  MOELORA_CHECK(then.is_object() && then.contains("evaluation"), options.output.string(), ": no experiment (its ",
                kConfigFile, " is of something else); choose the --output that the experiment began with");
  if (!threads_given) {
    json["training"]["threads"] = then["training"]["threads"];  // sums round otherwise with another number
  }
  ordered_json before = then;
  ordered_json after = json;
  for (const auto& [key, field] : experiment::experiment_fields().all) {
    if (key == field.key && field.on_resume == io::OnResume::free) {  // answers don't depend on it
      before.erase(key);
      after.erase(key);
    }
  }
  std::string changes;
  list_changes(before, after, "", changes);
  MOELORA_CHECK(changes.empty(), options.output.string(), " holds an experiment with another configuration:", changes,
                "\nchoose another --output, or take the changes back");
  return json;
}

std::vector<std::string> cell_command(const std::filesystem::path& output, const std::string& id) {
  return {std::filesystem::read_symlink("/proc/self/exe").string(),
          "experiment",
          "--config",
          (output / kConfigFile).string(),
          "--output",
          output.string(),
          "--cell",
          id};
}

int run_one_cell(const ExperimentVerbOptions& options, const ExperimentConfig& config) {
  const experiment::OpenBase opener = [&](const train::ModelSection& section) {
    return open_base(section, config.data.chat_template);
  };
  for (const Cell& cell : experiment::plan_cells(config)) {
    if (cell.id == options.cell) {
      return experiment::run_cell(config, cell, options.output, opener, &stop_on_signals()) ? 0 : kInterrupted;
    }
  }
  throw Error("this experiment has no cell '" + options.cell + "'; --list shows them");
}

void list_cells(const ExperimentConfig& config, const std::filesystem::path& output) {
  for (const Cell& cell : experiment::plan_cells(config)) {
    const bool finished = !output.empty() && experiment::is_finished(output, cell);
    std::cout << (finished ? "finished  " : "to do     ") << cell.id << "\n";
  }
  std::cout << std::flush;
}

void write_report(const ExperimentConfig& config, const std::filesystem::path& output) {
  const experiment::Results results = experiment::collect(config, output);
  experiment::write_experiment_report(output, results);
  std::cout << experiment::main_table(results) << "\nWrote " << (output / "results.md").string() << ", "
            << (output / "results.json").string() << " and " << (output / "results.html").string() << std::endl;
}

/// Error if the folder is none of an experiment's, or holds cells of other records or of another base.
void check_resumed(const ExperimentVerbOptions& options, const ExperimentConfig& config, const std::vector<Cell>& cells,
                   ordered_json inputs) {
  // Cells that were run alone leave no configuration.
  MOELORA_CHECK(io::is_empty_folder(options.output) || std::filesystem::exists(options.output / kConfigFile) ||
                    std::filesystem::is_directory(options.output / "cells"),
                options.output.string(), ": no experiment (it has files, but no ", kConfigFile,
                "); choose the --output that the experiment began with");
  const bool any_finished = std::any_of(
      cells.begin(), cells.end(), [&](const Cell& cell) { return experiment::is_finished(options.output, cell); });
  if (any_finished) {
    inputs["base"] = open_base(config.model, config.data.chat_template).fingerprint;
    experiment::check_inputs_of_finished(cells, options.output, inputs);
  }
}

/// The keys of all methods, broken into lines.
std::string listed_methods() {
  constexpr std::size_t kWidth = 112;
  std::string text = "Methods:";
  std::size_t begin = 0;
  for (const experiment::MethodPtr& method : experiment::methods()) {
    const std::string word = method->key() + (method == experiment::methods().back() ? "." : ",");
    const bool fits = text.size() - begin + 1 + word.size() <= kWidth;
    text += (fits ? " " : "\n") + word;
    begin = fits ? begin : text.size() - word.size();
  }
  return text + "\n";
}

int run_experiment(const ExperimentVerbOptions& options) {
  if (options.print_config) {
    std::cout << experiment::documented_default_experiment() << std::flush;
    return 0;
  }
  MOELORA_CHECK(!options.config.empty(),
                "--config is required: a configuration file (--print-config shows one with every key)");
  MOELORA_CHECK(options.list || !options.output.empty(), "--output is required: the folder of the experiment");
  if (!options.cell.empty()) {
    return run_one_cell(options, ExperimentConfig::from_json(io::read_json_file(options.config)));
  }
  if (!options.resume && !options.list && !options.report_only) {
    require_empty(options.output);
  }
  const ordered_json json = effective_config(options);
  const ExperimentConfig config = ExperimentConfig::from_json(json);
  if (options.list) {
    list_cells(config, options.output);
    return 0;
  }
  if (options.report_only) {
    write_report(config, options.output);
    return 0;
  }
  const auto cells = experiment::plan_cells(config);
  const ordered_json inputs = experiment::check_inputs(config);  // bad input shows before the long part
  if (options.resume) {
    check_resumed(options, config, cells, inputs);
  }
  const io::FolderLock lock(options.output, "moelora experiment");
  io::write_json_file(options.output / kConfigFile, json);
  setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);  // cells share the cores
  setenv("OMP_NUM_THREADS", std::to_string(config.training.threads).c_str(), 1);
  experiment::ScheduleOptions schedule;
  schedule.jobs = config.jobs;
  schedule.command = [&](const Cell& cell) { return cell_command(options.output, cell.id); };
  schedule.stop = &stop_on_signals();
  const experiment::ScheduleResult result = experiment::run_cells(cells, options.output, schedule);
  write_report(config, options.output);
  if (result.stopped) {
    log::info(detail::concat("stopped with ", result.finished, " of ", cells.size(),
                             " cells finished; the same command with --resume goes on"));
    return kInterrupted;
  }
  for (const std::string& id : result.failed) {
    log::error(id + " failed; see " + (experiment::cell_folder(options.output, id) / "log.txt").string());
  }
  for (const std::string& id : result.blocked) {
    log::error(id + " was not run, because a cell that it needs failed");
  }
  return result.failed.empty() && result.blocked.empty() ? 0 : 1;
}

}  // namespace

void add_experiment(CLI::App& app, int& status) {
  auto* verb = app.add_subcommand("experiment", "compare methods on the same base and records: one table, one page");
  auto options = std::make_shared<ExperimentVerbOptions>();
  verb->add_option("--config", options->config, "configuration (JSON; lines of // are comments)");
  verb->add_option("--set", options->overrides, "KEY=VALUE: overrides a key, e.g. training.steps=100; repeatable")
      ->take_all();
  verb->add_option("--output", options->output, "new folder: cells/, results.{md,json,html}, config.json");
  verb->add_flag("--resume", options->resume, "go on with the experiment in --output; finished cells are not repeated");
  verb->add_option("--jobs", options->jobs, "cells at one time; 0: one for each core (default: the configuration's)")
      ->check(whole_number(0, 4096));
  verb->add_flag("--print-config", options->print_config, "print every key with its meaning and default");
  verb->add_flag("--list", options->list, "print the cells, and which of them are finished in --output");
  verb->add_flag("--report", options->report_only, "only write the report of what is finished in --output");
  verb->add_option("--cell", options->cell,
                   "run this cell alone, into --output (how the cells themselves are started)");
  verb->footer(
      std::string("Each cell (a method with a seed or a learning rate) is a process of its own. Ctrl-C stops all with "
                  "checkpoints\n"
                  "(exit code 130); a kill loses at most the steps since a cell's last checkpoint. Exit code 1: cells "
                  "failed.\n") +
      listed_methods() +
      "Examples:\n"
      "  moelora experiment --config configs/experiments/sample.json --output out/experiment\n"
      "  moelora experiment --config configs/experiments/sample.json --output out/experiment --resume\n"
      "  moelora experiment --config configs/experiments/sample.json --set 'methods=[\"lora-full\",\"moelora-d\"]' \\\n"
      "      'sweeps={}' 'new_tasks={}' --output out/two");
  verb->callback([options, &status] { status = run_experiment(*options); });
}

}  // namespace moelora::cli
