#include "moelora/experiment/config.h"

#include <algorithm>
#include <set>

#include "moelora/eval/scorer.h"
#include "moelora/experiment/method.h"
#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

void at_least(io::JsonReader& reader, const char* key, std::int64_t value, std::int64_t least) {
  if (value < least) {
    reader.problem(key, detail::concat("expected at least ", least, ", found ", value));
  }
}

template <typename Value>
void expect_distinct(io::JsonReader& reader, const char* key, const std::vector<Value>& values) {
  if (std::set<Value>(values.begin(), values.end()).size() != values.size()) {
    reader.problem(key, "a value is listed twice");
  }
}

void expect_rates(io::JsonReader& reader, const char* key, const std::vector<double>& rates) {
  if (!std::all_of(rates.begin(), rates.end(), [](double rate) { return rate > 0.0; })) {
    reader.problem(key, "expected numbers above 0");
  }
  expect_distinct(reader, key, rates);
}

/// Keys that say what a row is: they are the rows' own.
void refuse_row_keys(io::JsonReader& reader, const char* section, const ordered_json& value,
                     std::initializer_list<const char*> keys, const char* advice) {
  for (const char* key : keys) {
    if (value.is_object() && value.contains(key)) {
      reader.problem(std::string(section) + "." + key, advice);
    }
  }
}

/// Sections that a training run has too, read by their own rules.
void read_common(io::JsonReader& reader, ExperimentConfig& config) {
  ordered_json common{{"mode", "adapter"}};
  for (const char* section : {"model", "adapter", "data", "training"}) {
    ordered_json value;
    if (reader.read(section, value)) {
      common[section] = value;
    }
  }
  refuse_row_keys(
      reader, "adapter", common.value("adapter", ordered_json()),
      {"routing", "top_k", "per_linear", "table", "balance_loss", "prefix", "seed"},
      "differs by row, so it can't be common to all; see sparse_top_k, balance_loss, prefix_length and seeds");
  refuse_row_keys(reader, "data", common.value("data", ordered_json()), {"task_prompts", "as_text"},
                  "would change every row; the row lora-full-tp takes the key task_prompts beside this section");
  try {
    const train::TrainConfig read = train::TrainConfig::from_json(common);
    config.model = read.model;
    config.adapter = read.adapter;
    config.data = read.data;
    config.training = read.training;
  } catch (const Error& error) {
    reader.problem(error.what());
  }
}

void read_seeds(io::JsonReader& reader, ExperimentConfig& config) {
  std::vector<std::int64_t> seeds;
  const auto take = [&](const std::vector<std::int64_t>& from) {
    if (std::any_of(from.begin(), from.end(), [](std::int64_t seed) { return seed < 0; })) {
      reader.problem("seeds", "expected numbers of 0 or more");
    }
    return std::vector<std::uint64_t>(from.begin(), from.end());
  };
  if (reader.read("seeds", seeds)) {
    config.seeds = take(seeds);
  }
  ordered_json of = ordered_json::object();
  reader.read("seeds_of", of);
  io::JsonReader by_row(of, "seeds_of");
  for (const MethodPtr& method : methods()) {
    std::vector<std::int64_t> own;
    if (by_row.read(method->key(), own)) {
      config.seeds_of[method->key()] = take(own);
    }
  }
  try {
    by_row.finish();
  } catch (const Error& error) {
    reader.problem(error.what());
  }
  const auto check = [&](const char* key, const std::string& row, const std::vector<std::uint64_t>& own) {
    if (own.empty()) {
      reader.problem(key, "expected one seed or more" + row);
    }
    expect_distinct(reader, key, own);
  };
  for (const auto& [row, own] : config.seeds_of) {
    check("seeds_of", " for " + row, own);
  }
  check("seeds", "", config.seeds);
}

void read_methods(io::JsonReader& reader, ExperimentConfig& config) {
  reader.read("methods", config.methods);
  if (config.methods.empty()) {
    for (const MethodPtr& method : methods()) {
      config.methods.push_back(method->key());
    }
  }
  std::set<std::string> seen;
  for (const std::string& key : config.methods) {
    try {
      for (const std::string& needed : find_method(key).needs()) {
        if (!config.has(needed)) {
          reader.problem("methods", key + " is made of " + needed + ", which is not listed");
        }
      }
    } catch (const Error& error) {
      reader.problem("methods", error.what());
    }
    if (!seen.insert(key).second) {
      reader.problem("methods", key + " is listed twice");
    }
  }
  if (config.has("lora-full-tp") && config.task_prompts.empty()) {
    reader.problem("task_prompts", "the row lora-full-tp needs a file of descriptions by task");
  }
}

void read_sections(io::JsonReader& reader, ExperimentConfig& config) {
  io::JsonReader tuning = reader.child("tuning");
  tuning.read("learning_rates", config.tuning.learning_rates);
  tuning.read("steps", config.tuning.steps);
  expect_rates(tuning, "learning_rates", config.tuning.learning_rates);
  at_least(tuning, "steps", config.tuning.steps, 0);
  io::JsonReader sweeps = reader.child("sweeps");
  sweeps.read("num_experts", config.sweeps.num_experts);
  sweeps.read("rank", config.sweeps.rank);
  sweeps.read("top_k", config.sweeps.top_k);
  expect_distinct(sweeps, "num_experts", config.sweeps.num_experts);
  expect_distinct(sweeps, "rank", config.sweeps.rank);
  expect_distinct(sweeps, "top_k", config.sweeps.top_k);
  if (!(config.sweeps.num_experts.empty() && config.sweeps.rank.empty()) && !config.has("moelora-d")) {
    sweeps.problem("num_experts and rank are swept with the row moelora-d, which is not listed in methods");
  }
  if (!config.sweeps.top_k.empty() && !config.has("moelora-s")) {
    sweeps.problem("top_k", "is swept with the row moelora-s, which is not listed in methods");
  }
  io::JsonReader in_context = reader.child("in_context");
  in_context.read("examples", config.in_context.examples);
  in_context.read("max_source_length", config.in_context.max_source_length);
  at_least(in_context, "examples", config.in_context.examples, 1);
  io::JsonReader composition = reader.child("composition");
  composition.read("lambdas", config.composition.lambdas);
  composition.read("ties_lambdas", config.composition.ties_lambdas);
  composition.read("densities", config.composition.densities);
  composition.read("drop_rates", config.composition.drop_rates);
  for (const auto* list : {&config.composition.lambdas, &config.composition.ties_lambdas, &config.composition.densities,
                           &config.composition.drop_rates}) {
    if (list->empty()) {
      composition.problem("expected at least one value in lambdas, ties_lambdas, densities and drop_rates each");
    }
  }
  io::JsonReader lorahub = reader.child("lorahub");
  lorahub.read("examples", config.lorahub.examples);
  lorahub.read("evaluations", config.lorahub.evaluations);
  at_least(lorahub, "examples", config.lorahub.examples, 1);
  at_least(lorahub, "evaluations", config.lorahub.evaluations, 1);
  io::JsonReader new_tasks = reader.child("new_tasks");
  new_tasks.read("tasks", config.new_tasks.tasks);
  expect_distinct(new_tasks, "tasks", config.new_tasks.tasks);
  new_tasks.read("examples", config.new_tasks.examples);
  new_tasks.read("steps", config.new_tasks.steps);
  new_tasks.read("learning_rates", config.new_tasks.learning_rates);
  at_least(new_tasks, "examples", config.new_tasks.examples, 4);
  at_least(new_tasks, "steps", config.new_tasks.steps, 1);
  expect_rates(new_tasks, "learning_rates", config.new_tasks.learning_rates);
  if (config.new_tasks.learning_rates.empty()) {
    new_tasks.problem("learning_rates", "expected one or more");
  }
  if (!config.new_tasks.tasks.empty() && !(config.has("lora-single") && config.has("moelora-d"))) {
    new_tasks.problem("tasks", "new tasks are compared with the rows lora-single and moelora-d; list both in methods");
  }
}

}  // namespace

ExperimentConfig ExperimentConfig::from_json(const ordered_json& json) {
  ExperimentConfig config;
  io::JsonReader reader(json);
  reader.read("title", config.title);
  reader.read("evaluation", config.evaluation);
  if (reader.read("scorer", config.scorer)) {
    try {
      eval::scorer_from(config.scorer);
    } catch (const Error& error) {
      reader.problem("scorer", error.what());
    }
  }
  reader.read("task_prompts", config.task_prompts);
  read_common(reader, config);
  reader.read("eval_batch_size", config.eval_batch_size);
  reader.read("balance_loss", config.balance_loss);
  reader.read("sparse_top_k", config.sparse_top_k);
  reader.read("prefix_length", config.prefix_length);
  reader.read("costs", config.costs);
  reader.read("cost_rounds", config.cost_rounds);
  reader.read("jobs", config.jobs);
  read_methods(reader, config);
  read_seeds(reader, config);
  read_sections(reader, config);
  at_least(reader, "eval_batch_size", config.eval_batch_size, 1);
  at_least(reader, "prefix_length", config.prefix_length, 1);
  at_least(reader, "cost_rounds", config.cost_rounds, 1);
  at_least(reader, "jobs", config.jobs, 0);
  if (config.evaluation.empty()) {
    reader.problem("evaluation", "the file of records that are scored is missing");
  }
  try {
    reader.finish();
  } catch (const Error& error) {
    throw Error(std::string("the experiment's configuration has these problems:\n") + error.what());
  }
  return config;
}

const std::vector<std::uint64_t>& ExperimentConfig::seeds_for(const std::string& method) const {
  const auto own = seeds_of.find(method);
  return own == seeds_of.end() ? seeds : own->second;
}

bool ExperimentConfig::has(const std::string& method) const {
  return std::find(methods.begin(), methods.end(), method) != methods.end();
}

}  // namespace moelora::experiment
