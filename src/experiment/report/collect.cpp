#include "moelora/experiment/collect.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "experiment/grid/bench.h"
#include "experiment/report/table.h"
#include "moelora/eval/scorer.h"
#include "moelora/experiment/inputs.h"
#include "moelora/io/readable.h"
#include "moelora/train/run_data.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

constexpr const char* kSameTunedHow =
    "Learning rates: every trained method was run with each of the rates listed, with the first of its seeds, and has "
    "the "
    "one "
    "with the lowest loss on the validation part (cut out of the training records, the same for all methods). The "
    "evaluation "
    "records were answered once by each finished run and decided nothing.";

std::optional<double> number_at(const ordered_json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? std::optional(found->get<double>()) : std::nullopt;
}

/// Collects from one output folder.
class Collector {
 public:
  Collector(const ExperimentConfig& config, const std::filesystem::path& output) : config_(config), output_(output) {}

  bool has(const std::string& id) const { return std::filesystem::exists(folder(id) / "result.json"); }
  ordered_json result(const std::string& id) const { return read_result(output_, id); }
  Run run(const std::string& id, std::uint64_t seed, const char* file = "predictions.json") const {
    return {seed, data::read_records(folder(id) / file).records};
  }

  MethodResults results_of(const Method& method) const {
    MethodResults row;
    row.key = method.key();
    row.title = method.title();
    row.note = method.note();
    row.not_merged = method.not_mergeable();
    for (const std::string& needed : method.needs()) {
      row.cost_note += (row.cost_note.empty() ? "+ " : ", ") + find_method(needed).title();
    }
    std::vector<double> seconds, memory, losses;
    for (const std::uint64_t seed : config_.seeds_for(method.key())) {
      const std::string id = run_id(method.key(), seed);
      if (!has(id)) {
        continue;
      }
      const ordered_json found = result(id);
      row.runs.push_back(run(id, seed));
      row.learning_rate = number_at(found, "learning_rate");
      row.steps = found.value("steps", std::int64_t{0});
      const auto details = found.find("details");
      if (details != found.end() && details->is_object() && details->contains("note")) {
        row.note = method.note() + ": " + details->at("note").get<std::string>();
      }
      row.trained_parameters = found.value("trained_parameters", std::int64_t{0});
      row.gate_parameters = found.value("gate_parameters", std::int64_t{0});
      if (const auto value = number_at(found, "validation_loss")) {
        losses.push_back(*value);
      }
      if (const auto value = number_at(found, "training_seconds")) {
        seconds.push_back(*value);
      }
      if (const auto value = number_at(found, "peak_memory_bytes")) {
        memory.push_back(*value);
      }
    }
    if (!losses.empty()) {
      row.validation_loss = std::accumulate(losses.begin(), losses.end(), 0.0) / static_cast<double>(losses.size());
    }
    row.training_seconds = median_of(seconds);
    row.peak_memory_bytes = median_of(memory);
    const std::string cost = "cost/" + method.key();
    if (has(cost)) {
      const ordered_json found = result(cost);
      row.ms_per_token = number_at(found, "ms_per_token");
      row.ms_per_token_merged = number_at(found, "ms_per_token_merged");
      if (const auto ratio = found.find("step_ratio"); ratio != found.end()) {
        row.step_ratio = Ratio{ratio->at("median"), ratio->at("low"), ratio->at("high")};
      }
    }
    return row;
  }

  /// The value that the row itself has comes from the row's run with the sweep's seed.
  void add_sweep(const SweptNumber& number, const Method& swept, std::int64_t tasks, Results& results) const {
    const auto found = config_.sweeps.find(number.parameter);
    if (found == config_.sweeps.end() || found->second.empty()) {
      return;
    }
    const std::vector<std::int64_t>& values = found->second;
    const std::string& parameter = number.parameter;
    const std::string& method = swept.key();
    const std::int64_t common = number.value(config_of(config_, swept, tasks, /*seed=*/0, /*rate=*/0.0).adapter);
    const std::uint64_t first = config_.seeds_for(method).front();
    const std::string of_row = run_id(method, first);
    if (std::find(values.begin(), values.end(), common) == values.end() && has(of_row)) {
      results.sweeps.push_back({parameter,
                                common,
                                find_method(method).title(),
                                {run(of_row, first)},
                                result(of_row).value("trained_parameters", std::int64_t{0}),
                                true});
    }
    for (const std::int64_t value : values) {
      SweepPoint point;
      point.parameter = parameter;
      point.value = value;
      point.title = find_method(method).title();
      const std::uint64_t seed = config_.seeds_for(method).front();
      const std::string id = sweep_id(parameter, value, seed);
      if (has(id)) {
        point.runs.push_back(run(id, seed));
        point.trained_parameters = result(id).value("trained_parameters", std::int64_t{0});
      }
      results.sweeps.push_back(std::move(point));
    }
  }

  void add_expert_weights(const std::string& method, Results& results) const {
    if (!config_.has(method)) {
      return;
    }
    const std::string id = run_id(method, config_.seeds_for(method).front());
    if (!has(id)) {
      return;
    }
    const ordered_json found = result(id);
    if (const auto weights = found.find("expert_weights"); weights != found.end()) {
      ExpertWeights& entry = results.expert_weights.emplace_back();
      entry.title = find_method(method).title();
      for (const auto& [task, row] : weights->items()) {
        entry.tasks.push_back(task);
        entry.weights.push_back(row.get<std::vector<double>>());
      }
    }
  }

  void add_tuning(const Method& method, Results& results) const {
    if (!is_tuned(config_, method.key())) {
      return;
    }
    Tuning tuning{method.title(), {}};
    for (const double rate : config_.tuning.learning_rates) {
      const std::string id = tune_id(method.key(), rate);
      if (has(id)) {
        tuning.losses.emplace_back(
            rate, number_at(result(id), "validation_loss").value_or(std::numeric_limits<double>::infinity()));
      }
    }
    results.tunings.push_back(std::move(tuning));
  }

  void add_new_task(const std::string& task, Results& results) const {
    const std::uint64_t seed = config_.seeds_for(method_with(Role::baseline).key()).front();
    const std::string id = new_task_id(task, seed);
    NewTask entry{task, config_.new_tasks.examples, {}, {}};
    if (has(id)) {
      for (const data::Record& record : results.references) {
        if (record.task == task) {
          entry.references.push_back(record);
        }
      }
      const ordered_json found = result(id);
      for (const ordered_json& way : found.at("ways")) {
        const std::string file = way.at("file");
        entry.entries.push_back({way.at("title"), way.at("trained_parameters"), {run(id, seed, file.c_str())}});
      }
    }
    results.new_tasks.push_back(std::move(entry));
  }

 private:
  std::filesystem::path folder(const std::string& id) const { return cell_folder(output_, id); }
  const ExperimentConfig& config_;
  const std::filesystem::path& output_;
};

/// Behind the row's note how many answers could not be read: what an untrained model gets wrong is often the form.
void note_unparsable(const Results& results, MethodResults& row) {
  std::int64_t unparsable = 0;
  std::int64_t answers = 0;
  for (const Run& run : row.runs) {
    const eval::Scores scores = eval::score(results.references, run.predictions, results.scorer);
    unparsable += scores.unparsable;
    answers += scores.samples;
  }
  if (unparsable > 0) {
    row.note += "; " + io::with_commas(unparsable) + " of " + io::with_commas(answers) +
                " answers are not of the form asked for, and count as wrong";
  }
}

void add_notes(const ExperimentConfig& config, Results& results) {
  const auto note = [&](bool holds, const char* text) {
    if (holds) {
      results.notes.emplace_back(text);
    }
  };
  for (const MethodPtr& method : methods()) {
    const std::string remark = config.has(method->key()) ? method->remark() : "";
    if (std::find(results.notes.begin(), results.notes.end(), remark) == results.notes.end()) {
      note(!remark.empty(), remark.c_str());
    }
  }
  note(
      std::any_of(config.sweeps.begin(), config.sweeps.end(), [](const auto& sweep) { return !sweep.second.empty(); }),
      "Sweeps have one seed and the learning rate of their method; alpha / rank stays the same when the rank changes.");
  note(
      !config.new_tasks.tasks.empty(),
      "New tasks: MOELoRA is trained without the task, but with the learning rate that was tuned on all tasks. The few "
      "examples are training records of the task.");
}

}  // namespace

Results collect(const ExperimentConfig& config, const std::filesystem::path& output) {
  const Collector collector(config, output);
  const train::RunData records = train::read_run_data(config.data, config.training.seed);
  const TaskNames tasks(data::task_names_of(records.train));
  Results results;
  results.title = config.title;
  results.base = method_with(Role::base).key();
  results.baseline = method_with(Role::baseline).key();
  results.single = method_with(Role::single).key();
  results.equal_to = method_with(Role::yardstick).key();
  results.references = evaluation_records(config, tasks);
  check_inputs_of_finished(plan_cells(config), output, input_hashes(config, records, results.references));
  results.scorer = eval::scorer_from(config.scorer);
  results.majority = eval::majority_scores(records.train, results.references, results.scorer);
  for (const std::string& key : config.methods) {
    const Method& method = find_method(key);
    results.methods.push_back(collector.results_of(method));
    note_unparsable(results, results.methods.back());
    collector.add_tuning(method, results);
    for (const std::uint64_t seed : config.seeds_for(key)) {
      if (results.base_parameters == 0 && collector.has(run_id(key, seed))) {
        results.base_parameters = collector.result(run_id(key, seed)).value("base_parameters", std::int64_t{0});
      }
    }
  }
  for (const MethodPtr& method : methods()) {
    for (const SweptNumber& number : method->swept()) {
      collector.add_sweep(number, *method, tasks.size(), results);
    }
    if (method->shows_expert_weights()) {
      collector.add_expert_weights(method->key(), results);
    }
  }
  for (const std::string& task : config.new_tasks.tasks) {
    collector.add_new_task(task, results);
  }
  const data::CountedRecords& left_out = results.majority->left_out;
  const std::string unscored =
      left_out.count == 0 ? "" : ", of which without a target, so not scored: " + left_out.text();
  results.facts = {
      {"base", config.model.init.is_null() ? config.model.path : "new model, random weights"},
      {"training", train::title_of(config.data.training()) + ", " + std::to_string(records.train.size()) +
                       " records, " + std::to_string(config.training.steps) + " steps of " +
                       std::to_string(config.training.batch_size)},
      {"validation", std::to_string(records.validation.size()) + " records"},
      {"evaluation", config.evaluation + ", " + std::to_string(results.references.size()) + " records" + unscored},
      {"scorer", results.scorer.name},
      {"adapter", "rank " + std::to_string(config.adapter.rank) + ", " + std::to_string(config.adapter.num_experts) +
                      " experts, alpha " + std::to_string(static_cast<std::int64_t>(config.adapter.alpha))}};
  if (const double ratio = config.training.gate_learning_rate_ratio; ratio != 1.0) {
    results.facts.emplace_back("learning rate of gates and routers", "the method's times " + short_number(ratio));
  }
  add_notes(config, results);
  if (config.tuning.learning_rates.size() > 1) {
    results.notes.push_back(kSameTunedHow);
    if (config.tuning.steps > 0 && config.tuning.steps != config.training.steps) {
      results.notes.push_back("The runs that tune have " + std::to_string(config.tuning.steps) + " steps.");
    }
  }
  return results;
}

}  // namespace moelora::experiment
