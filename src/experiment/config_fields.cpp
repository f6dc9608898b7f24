// The fields of `moelora experiment`'s configuration: the one list of its keys (io/fields.h).

#include "experiment/config_fields.h"

#include <algorithm>

#include "moelora/experiment/method.h"
#include "moelora/train/config_text.h"

namespace moelora::experiment {
namespace {

using io::at_least;
using io::OnResume;

std::string rates(const std::vector<double>& values) {
  const bool positive = std::all_of(values.begin(), values.end(), [](double rate) { return rate > 0.0; });
  return positive ? io::distinct(values) : "expected numbers above 0";
}

std::string one_or_more(const std::vector<double>& values) { return values.empty() ? "expected one or more" : ""; }

std::string needed_file(const std::string& file) {
  return file.empty() ? "the file of records that are scored is missing" : "";
}

void fields(io::FieldVisitor& visit, TuningSection& tuning) {
  visit({"learning_rates", "one or more; a single one is taken as it is, and none is training.learning_rate"},
        tuning.learning_rates, rates);
  visit({"steps", "of a run that tunes; 0: as many as the runs have"}, tuning.steps, at_least(0));
}

void fields(io::FieldVisitor& visit, NewTasksSection& section) {
  visit({"tasks", "each is left out of training, then learned from a few examples; empty: none"}, section.tasks,
        io::distinct<std::string>);
  visit({"examples", "of the task"}, section.examples, at_least(4));
  visit({"steps", "of fitting the embedding, and of the fresh LoRA"}, section.steps, at_least(1));
  visit({"learning_rates", "tried by leave-out on half of the examples"}, section.learning_rates, rates, one_or_more);
}

/// A list for some of the methods.
void fields_of_rows(io::FieldVisitor& visit, std::map<std::string, std::vector<std::uint64_t>>& seeds_of) {
  for (const MethodPtr& method : methods()) {
    const auto own = seeds_of.find(method->key());
    std::vector<std::uint64_t> seeds = own == seeds_of.end() ? std::vector<std::uint64_t>() : own->second;
    if (visit({.key = method->key(), .meaning = "seeds of this method", .written = own != seeds_of.end()}, seeds)) {
      seeds_of[method->key()] = std::move(seeds);
    }
  }
}

void fields_of_sweeps(io::FieldVisitor& visit, std::map<std::string, std::vector<std::int64_t>>& sweeps) {
  for (const MethodPtr& method : methods()) {
    for (const SweptNumber& number : method->swept()) {
      visit({number.parameter, "values of adapter's key of this name; empty: none"}, sweeps[number.parameter],
            io::distinct<std::int64_t>);
    }
  }
}

}  // namespace

void fields(io::FieldVisitor& visit, ExperimentConfig& config, CommonSections& common) {
  visit({"title", "of the report"}, config.title);
  visit({"model", "The base."}, common.model);
  visit({"adapter", "What is common to all adapters; methods have their own routing, prefix and seed."},
        common.adapter);
  visit({"data", "The records; \"fields\" says which of their fields are prompt, answer, task and choices."},
        common.data);
  visit({"training", "How the trained methods are trained."}, common.training);
  visit({"evaluation", "file of records that are scored once for each finished run (required)"}, config.evaluation,
        needed_file);
  visit({"scorer", "moelora, promptcblue, paper, or a JSON file of scorers", OnResume::free}, config.scorer);
  visit({"task_prompts", "file of descriptions by task, for the methods that put them into the prompt"},
        config.task_prompts);
  visit({"eval_batch_size", "records that are answered at once"}, config.eval_batch_size, at_least(1));
  visit({"methods", "keys of methods; a configuration without them has all"}, config.methods);
  visit({"seeds", "of every method that is not in seeds_of"}, config.seeds, io::distinct<std::uint64_t>);
  visit.section({"seeds_of", "Seeds of single methods, by their keys."},
                [&](io::FieldVisitor& section) { fields_of_rows(section, config.seeds_of); });
  visit.section({"tuning", "Every trained method is run with each rate; the lowest validation loss wins."},
                [&](io::FieldVisitor& section) { fields(section, config.tuning); });
  visit.section({"sweeps", "Rows with other numbers, on their first seed."},
                [&](io::FieldVisitor& section) { fields_of_sweeps(section, config.sweeps); });
  config.own.fields(visit);
  visit.section({"new_tasks", "Tasks that are learned afterwards."},
                [&](io::FieldVisitor& section) { fields(section, config.new_tasks); });
  visit({"costs", "measure step times and latencies, one method at a time"}, config.costs);
  visit({"cost_rounds", "pairs of steps"}, config.cost_rounds, at_least(1));
  visit({"keep_adapters",
         "keep what runs train; false: only results, answers and logs, a few hundred kilobytes for each run",
         OnResume::free},
        config.keep_adapters);
  visit({"jobs", "cells at one time, each with its share of the cores; 0: one for each core", OnResume::free},
        config.jobs, at_least(0));
}

const io::FieldList& experiment_fields() {
  static const io::FieldList list = [] {
    ExperimentConfig config;
    config.own = default_own_settings();
    CommonSections common;
    io::FieldList all;
    fields(all, config, common);
    for (const auto& [path, field] : train::train_fields().all) {
      if (path.find('.') != std::string::npos) {
        all.all.emplace_back(path, field);
        if (!path.starts_with("data.")) {
          all.all.back().second.example = nullptr;  // keys that a method may set, not the common sections
        }
      }
    }
    return all;
  }();
  return list;
}

}  // namespace moelora::experiment
