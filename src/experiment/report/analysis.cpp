#include "experiment/report/analysis.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "moelora/io/error.h"

namespace moelora::experiment {
namespace {

eval::BootstrapRow scored_runs(const std::vector<data::Record>& references, const std::vector<Run>& runs,
                               const eval::Scorer& scorer) {
  eval::BootstrapRow row;
  for (const Run& run : runs) {
    row.seeds.push_back(run.seed);
    row.runs.push_back(eval::ScoredRun::from(references, run.predictions, scorer));
  }
  return row;
}

std::vector<eval::BootstrapRow> scored_rows(const Results& results) {
  std::vector<eval::BootstrapRow> scored;
  for (const MethodResults& row : results.methods)
    scored.push_back(scored_runs(results.references, row.runs, results.scorer));
  for (const SweepPoint& point : results.sweeps)
    scored.push_back(scored_runs(results.references, point.runs, results.scorer));
  return scored;
}

std::optional<std::size_t> row_of_key(const Results& results, const std::string& key) {
  const auto found = std::find_if(results.methods.begin(), results.methods.end(),
                                  [&](const MethodResults& r) { return r.key == key; });
  if (found == results.methods.end()) return std::nullopt;
  return static_cast<std::size_t>(found - results.methods.begin());
}

void check_shapes(const Results& results) {
  std::set<std::string> keys;
  for (const MethodResults& row : results.methods) {
    MOELORA_CHECK(keys.insert(row.key).second, "expected a key of its own for every method, found `", row.key,
                  "` twice: rename one");
  }
  for (const ExpertWeights& weights : results.expert_weights) {
    MOELORA_CHECK(weights.tasks.size() == weights.weights.size(), "expected a row of expert weights for each of ",
                  weights.tasks.size(), " tasks of `", weights.title, "`, found ", weights.weights.size());
    for (const auto& row : weights.weights) {
      MOELORA_CHECK(row.size() == weights.weights.front().size(), "expected ", weights.weights.front().size(),
                    " experts in every row of `", weights.title, "`, found ", row.size());
    }
  }
}

}  // namespace

Analysis analyse(const Results& results) {
  check_shapes(results);
  const eval::BootstrapOptions options;
  std::vector<eval::BootstrapRow> scored = scored_rows(results);
  eval::Bootstrap bootstrap(scored, options);
  Analysis analysis{{}, "", options, std::move(scored), std::move(bootstrap), {}, {}, {}, {}, {}};
  analysis.base = row_of_key(results, results.base);
  analysis.baseline = row_of_key(results, results.baseline);
  analysis.single = row_of_key(results, results.single);
  analysis.equal_to = row_of_key(results, results.equal_to);
  if (!results.references.empty()) {
    // The references answer themselves: the tasks are known before any run has finished.
    const auto reference = eval::ScoredRun::from(results.references, results.references, results.scorer);
    eval::Scores scores;
    scores.segmentation = reference.segmentation();
    for (const eval::TaskSamples& task : reference.tasks()) {
      analysis.tasks.push_back({task.task, std::string(eval::metric_name(task.metric)), task.count()});
      scores.tasks.emplace_back().task = task.task;
      scores.tasks.back().segmented = eval::depends_on_segmentation(task.metric);
    }
    analysis.segmentation_note = eval::segmentation_note(scores);
  }
  for (const NewTask& task : results.new_tasks) {
    std::vector<eval::BootstrapRow> entries;
    for (const NewTaskEntry& entry : task.entries)
      entries.push_back(scored_runs(task.references, entry.runs, results.scorer));
    analysis.new_tasks.emplace_back(entries, options);
  }
  return analysis;
}

std::optional<double> parameter_deviation(const Results& results, const Analysis& analysis, const MethodResults& row) {
  if (!analysis.equal_to || row.trained_parameters == 0) return std::nullopt;
  const MethodResults& measure = results.methods[*analysis.equal_to];
  const auto without_gate = [](const MethodResults& r) {
    return static_cast<double>(r.trained_parameters - r.gate_parameters);
  };
  if (without_gate(measure) <= 0) return std::nullopt;
  return without_gate(row) / without_gate(measure) - 1;
}

std::optional<double> share_of_base(const Results& results, std::int64_t trained_parameters) {
  if (results.base_parameters <= 0 || trained_parameters <= 0) return std::nullopt;
  return static_cast<double>(trained_parameters) / static_cast<double>(results.base_parameters);
}

std::optional<std::size_t> chosen_loss(const Tuning& tuning) {
  std::optional<std::size_t> chosen;
  for (std::size_t i = 0; i < tuning.losses.size(); ++i) {
    if (!std::isfinite(tuning.losses[i].second)) continue;
    if (!chosen || tuning.losses[i].second < tuning.losses[*chosen].second) chosen = i;
  }
  return chosen;
}

bool is_at_edge(const Tuning& tuning) {
  const auto chosen = chosen_loss(tuning);
  if (!chosen) return false;
  const auto [smallest, largest] = std::minmax_element(tuning.losses.begin(), tuning.losses.end(),
                                                       [](const auto& a, const auto& b) { return a.first < b.first; });
  const double rate = tuning.losses[*chosen].first;
  return rate == smallest->first || rate == largest->first;
}

std::vector<std::string> rows_of_one_seed(const Results& results) {
  std::vector<std::string> titles;
  for (const MethodResults& row : results.methods) {
    if (row.runs.size() == 1) titles.push_back(row.title);
  }
  return titles;
}

std::vector<std::string> swept_parameters(const Results& results) {
  std::vector<std::string> parameters;
  for (const SweepPoint& point : results.sweeps) {
    if (std::find(parameters.begin(), parameters.end(), point.parameter) == parameters.end()) {
      parameters.push_back(point.parameter);
    }
  }
  return parameters;
}

std::vector<std::size_t> points_of(const Results& results, const std::string& parameter) {
  std::vector<std::size_t> points;
  for (std::size_t i = 0; i < results.sweeps.size(); ++i) {
    if (results.sweeps[i].parameter == parameter) points.push_back(i);
  }
  std::stable_sort(points.begin(), points.end(),
                   [&](std::size_t a, std::size_t b) { return results.sweeps[a].value < results.sweeps[b].value; });
  return points;
}

}  // namespace moelora::experiment
