#pragma once
// An experiment that nobody ran: answers right with a probability that depends on the method and the task.

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "moelora/data/random.h"
#include "moelora/experiment/results.h"

namespace moelora::testing {

inline constexpr std::uint64_t kMadeUpScale = 1'000'000;

inline std::vector<data::Record> made_up_references(const std::vector<std::string>& tasks, int samples) {
  const std::vector<std::string> labels{"甲", "乙", "丙"};
  std::vector<data::Record> references;
  for (const std::string& task : tasks) {
    for (int i = 0; i < samples; ++i) {
      data::Record record;
      record.input = "问题";
      record.task = task;
      record.task_type = "cls";
      record.sample_id = task + std::to_string(i);
      record.target = labels[static_cast<std::size_t>(i) % labels.size()];
      record.answer_choices = labels;
      references.push_back(record);
    }
  }
  return references;
}

/// A sample is as hard for every method: the weaker one's right answers are mostly among the stronger one's.
inline experiment::Run made_up_run(const std::vector<data::Record>& references, double right, std::uint64_t seed) {
  experiment::Run run{seed, references};
  for (std::size_t i = 0; i < references.size(); ++i) {
    const auto uniform = [](data::SplitMix64 random) {
      return static_cast<double>(random.below(kMadeUpScale)) / static_cast<double>(kMadeUpScale);
    };
    const double difficulty = uniform(data::stream(1, i, 0));
    const double luck = uniform(data::stream(seed, i, static_cast<std::uint64_t>(right * 1e6)));
    if (0.8 * difficulty + 0.2 * luck > right) run.predictions[i].target = "丁";
  }
  return run;
}

/// `methods` rows of `seeds` runs on `tasks` tasks of PromptCBLUE, everything else filled too.
inline experiment::Results made_up_results(std::size_t methods, std::size_t tasks, int samples, std::size_t seeds) {
  // Lower case: not PromptCBLUE's own, so that labels are answers there too.
  const std::vector<std::string> all_tasks{
      "CHIP-CTC", "cmeee-v2",     "KUAKE-QIC",  "CHIP-STS",    "cmeie",     "chip-cdn",  "chip-cdee",   "imcs-v2-ner",
      "KUAKE-IR", "chip-mdcfnpc", "imcs-v2-sr", "imcs-v2-dac", "KUAKE-QQR", "KUAKE-QTR", "imcs-v2-mrg", "MedDG"};
  const std::vector<std::pair<std::string, std::string>> names{
      {"moelora-d", "MOELoRA (D)"}, {"lora-full", "LoRA (Full)"}, {"lora-single", "LoRA (Single)"},
      {"moelora-s", "MOELoRA (S)"}, {"moelora-m", "MOELoRA (M)"}, {"no-gate", "MOELoRA without gate"},
      {"molora", "MoLoRA"},         {"p-tuning", "P-Tuning v2"}};
  experiment::Results results;
  results.title = "Methods on PromptCBLUE";
  results.base = "base";
  results.baseline = "moelora-d";
  results.single = "lora-single";
  results.equal_to = "lora-full";
  results.facts = {{"base", "ChatGLM-6B"}, {"data", "1,000 training records per task"}};
  results.references =
      made_up_references({all_tasks.begin(), all_tasks.begin() + static_cast<std::ptrdiff_t>(tasks)}, samples);
  results.base_parameters = 6'173'286'400;
  for (std::size_t i = 0; i < methods; ++i) {
    experiment::MethodResults row;
    row.key = i < names.size() ? names[i].first : "variant-" + std::to_string(i);
    row.title = i < names.size() ? names[i].second : "Variant " + std::to_string(i);
    for (std::size_t seed = 0; seed < seeds; ++seed) {
      const double right = 0.72 - 0.012 * static_cast<double>(i) + 0.006 * static_cast<double>(seed);
      row.runs.push_back(made_up_run(results.references, right, 41 + seed));
    }
    row.learning_rate = 2e-4;
    row.steps = 8000;
    row.gate_parameters = row.key.starts_with("moelora") ? 2'560 : 0;
    row.trained_parameters = 29'360'128 + row.gate_parameters + (row.key == "p-tuning" ? 2'000'000 : 0);
    row.training_seconds = 7230.0 + 100.0 * static_cast<double>(i);
    row.peak_memory_bytes = 18.25 * 1024 * 1024 * 1024;
    row.step_ratio = experiment::Ratio{1.01 + 0.01 * static_cast<double>(i), 1.0, 1.04 + 0.01 * static_cast<double>(i)};
    row.ms_per_token = 31.5 + static_cast<double>(i);
    if (row.key == "molora") row.not_merged = "routed by token";
    if (row.not_merged.empty()) row.ms_per_token_merged = 28.0;
    results.methods.push_back(std::move(row));
  }
  for (const auto& [parameter, value] : std::vector<std::pair<std::string, std::int64_t>>{
           {"rank", 4}, {"rank", 8}, {"rank", 16}, {"rank", 32}, {"experts", 2}, {"experts", 4}, {"experts", 8}}) {
    const double right = 0.6 + 0.02 * std::log2(static_cast<double>(value));
    results.sweeps.push_back({parameter,
                              value,
                              parameter + " " + std::to_string(value),
                              {made_up_run(results.references, right, 41)},
                              1'835'008 * value});
  }
  experiment::ExpertWeights weights{"MOELoRA (D), seed 41", {}, {}};
  for (std::size_t task = 0; task < tasks; ++task) {
    weights.tasks.push_back(all_tasks[task]);
    weights.weights.push_back({0.4, 0.3, 0.2, 0.1});
    std::rotate(weights.weights.back().begin(), weights.weights.back().begin() + static_cast<std::ptrdiff_t>(task % 4),
                weights.weights.back().end());
  }
  results.expert_weights.push_back(weights);
  experiment::NewTask new_task{"KUAKE-QTR", 16, made_up_references({"KUAKE-QTR"}, samples), {}};
  new_task.entries.push_back({"gate alone", 72, {made_up_run(new_task.references, 0.55, 41)}});
  new_task.entries.push_back({"adapter from scratch", 29'360'128, {made_up_run(new_task.references, 0.45, 41)}});
  results.new_tasks.push_back(std::move(new_task));
  results.tunings = {{"MOELoRA (D)", {{1e-4, 0.31}, {3e-4, 0.2875}, {1e-3, HUGE_VAL}}},
                     {"LoRA (Full)", {{1e-4, 0.30}, {3e-4, 0.2925}}}};
  results.notes = {"Made-up answers."};
  return results;
}

}  // namespace moelora::testing
