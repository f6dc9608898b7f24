#include "experiment/report/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace moelora::experiment {
namespace {

using Json = nlohmann::ordered_json;

template <typename Value>
Json or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json interval_json(const std::optional<eval::Interval>& interval) {
  if (!interval) return nullptr;
  return {{"value", interval->value}, {"low", interval->low}, {"high", interval->high}};
}

Json difference_json(const std::optional<eval::Difference>& difference) {
  if (!difference) return nullptr;
  Json json = interval_json(difference->interval);
  json["share_not_above_zero"] = difference->share_not_above;
  json["seeds"] = difference->seeds;
  return json;
}

Json runs_json(const eval::BootstrapRow& row, const std::vector<TaskFacts>& tasks) {
  Json runs = Json::array();
  for (std::size_t i = 0; i < row.runs.size(); ++i) {
    Json run{{"seed", row.seeds[i]}, {"average", row.runs[i].average()}, {"tasks", Json::object()}};
    for (std::size_t task = 0; task < tasks.size(); ++task) run["tasks"][tasks[task].name] = row.runs[i].score(task);
    runs.push_back(std::move(run));
  }
  return runs;
}

Json scores_json(const Analysis& analysis, std::size_t row) {
  Json json{{"average", interval_json(analysis.bootstrap.average(row))}, {"tasks", Json::object()}};
  for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
    json["tasks"][analysis.tasks[task].name] = interval_json(analysis.bootstrap.score(row, task));
  }
  return json;
}

Json differences_json(const Analysis& analysis, std::size_t row, std::optional<std::size_t> other) {
  if (!other || *other == row) return nullptr;
  Json json{{"average", difference_json(analysis.bootstrap.average_difference(row, *other))},
            {"tasks", Json::object()}};
  for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
    json["tasks"][analysis.tasks[task].name] = difference_json(analysis.bootstrap.difference(row, *other, task));
  }
  return json;
}

Json row_json(const Results& results, const Analysis& analysis, std::size_t index) {
  const MethodResults& row = results.methods[index];
  Json json{{"key", row.key}, {"title", row.title}, {"note", row.note}};
  json["scores"] = scores_json(analysis, index);
  json["against_baseline"] = differences_json(analysis, index, analysis.baseline);
  json["against_single"] = differences_json(analysis, index, analysis.single);
  json["runs"] = runs_json(analysis.scored[index], analysis.tasks);
  json["learning_rate"] = or_null(row.learning_rate);
  json["steps"] = row.steps;
  json["validation_loss"] = or_null(row.validation_loss);
  json["trained_parameters"] = row.trained_parameters;
  json["gate_parameters"] = row.gate_parameters;
  json["share_of_base"] = or_null(share_of_base(results, row.trained_parameters));
  json["parameter_deviation"] = or_null(parameter_deviation(results, analysis, row));
  json["training_seconds"] = or_null(row.training_seconds);
  json["cost_note"] = row.cost_note;
  json["peak_memory_bytes"] = or_null(row.peak_memory_bytes);
  json["step_ratio"] = nullptr;
  if (row.step_ratio) {
    json["step_ratio"] = {
        {"median", row.step_ratio->median}, {"low", row.step_ratio->low}, {"high", row.step_ratio->high}};
  }
  json["ms_per_token"] = or_null(row.ms_per_token);
  json["ms_per_token_merged"] = or_null(row.ms_per_token_merged);
  json["not_merged"] = row.not_merged;
  return json;
}

Json sweeps_json(const Results& results, const Analysis& analysis) {
  Json sweeps = Json::array();
  for (const std::string& parameter : swept_parameters(results)) {
    for (const std::size_t i : points_of(results, parameter)) {
      const SweepPoint& point = results.sweeps[i];
      const std::size_t row = results.methods.size() + i;
      sweeps.push_back({{"parameter", point.parameter},
                        {"value", point.value},
                        {"title", point.title},
                        {"reference", point.reference},
                        {"trained_parameters", point.trained_parameters},
                        {"scores", scores_json(analysis, row)},
                        {"runs", runs_json(analysis.scored[row], analysis.tasks)}});
    }
  }
  return sweeps;
}

Json new_tasks_json(const Results& results, const Analysis& analysis) {
  Json tasks = Json::array();
  for (std::size_t i = 0; i < results.new_tasks.size(); ++i) {
    const NewTask& task = results.new_tasks[i];
    Json entries = Json::array();
    for (std::size_t entry = 0; entry < task.entries.size(); ++entry) {
      entries.push_back({{"title", task.entries[entry].title},
                         {"trained_parameters", task.entries[entry].trained_parameters},
                         {"seeds", task.entries[entry].runs.size()},
                         {"score", interval_json(analysis.new_tasks[i].average(entry))}});
    }
    tasks.push_back({{"task", task.task},
                     {"examples", task.examples},
                     {"samples", task.references.size()},
                     {"entries", std::move(entries)}});
  }
  return tasks;
}

Json tunings_json(const Results& results) {
  Json tunings = Json::array();
  for (const Tuning& tuning : results.tunings) {
    Json losses = Json::array();
    for (const auto& [rate, loss] : tuning.losses) {
      losses.push_back(
          {{"learning_rate", rate}, {"validation_loss", std::isfinite(loss) ? Json(loss) : Json(nullptr)}});
    }
    const auto chosen = chosen_loss(tuning);
    tunings.push_back({{"title", tuning.title},
                       {"losses", std::move(losses)},
                       {"chosen", chosen ? Json(tuning.losses[*chosen].first) : Json(nullptr)},
                       {"at_edge", is_at_edge(tuning)}});
  }
  return tunings;
}

}  // namespace

Json to_json(const Results& results, const Analysis& analysis) {
  Json json{{"title", results.title}, {"facts", Json::object()}, {"notes", results.notes}};
  for (const auto& [name, value] : results.facts) json["facts"][name] = value;
  json["scorer"] = results.scorer.name;
  json["segmentation_note"] = analysis.segmentation_note;
  json["bootstrap"] = {
      {"resamples", analysis.options.resamples}, {"seed", analysis.options.seed}, {"level", analysis.options.level}};
  json["tasks"] = Json::array();
  for (const TaskFacts& task : analysis.tasks) {
    json["tasks"].push_back({{"task", task.name}, {"metric", task.metric}, {"samples", task.samples}});
  }
  json["base"] = results.base;
  json["baseline"] = results.baseline;
  json["single"] = results.single;
  json["equal_to"] = results.equal_to;
  json["base_parameters"] = results.base_parameters;
  json["rows"] = Json::array();
  for (std::size_t i = 0; i < results.methods.size(); ++i) json["rows"].push_back(row_json(results, analysis, i));
  json["majority"] = results.majority ? eval::to_json(*results.majority) : Json(nullptr);
  json["sweeps"] = sweeps_json(results, analysis);
  json["expert_weights"] = Json::array();
  for (const ExpertWeights& weights : results.expert_weights) {
    json["expert_weights"].push_back(
        {{"title", weights.title}, {"tasks", weights.tasks}, {"weights", weights.weights}});
  }
  json["new_tasks"] = new_tasks_json(results, analysis);
  json["tunings"] = tunings_json(results);
  return json;
}

}  // namespace moelora::experiment
