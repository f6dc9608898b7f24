#include "cli/training_report.h"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "moelora/eval/report.h"
#include "moelora/io/readable.h"

namespace moelora::cli {
namespace {

using nlohmann::ordered_json;

void add_line(eval::TrainingReport& report, std::map<std::string, std::size_t>& curves, const ordered_json& line) {
  const std::int64_t step = line.at("step");
  if (const auto loss = line.find("loss"); loss != line.end() && loss->is_number()) {
    report.training_loss.push_back({step, *loss});
  }
  if (const auto loss = line.find("validation_loss"); loss != line.end() && loss->is_number()) {
    report.validation_loss.push_back({step, *loss});
  }
  if (const auto by_task = line.find("loss_by_task"); by_task != line.end()) {
    for (const auto& [task, loss] : by_task->items()) {
      const auto [curve, fresh] = curves.emplace(task, report.task_losses.size());
      if (fresh) {
        report.task_losses.push_back({task, {}});
      }
      report.task_losses[curve->second].points.push_back({step, loss});
    }
  }
  if (const auto weights = line.find("expert_weights"); weights != line.end()) {
    report.tasks.clear();
    report.expert_weights.clear();
    for (const auto& [task, row] : weights->items()) {
      report.tasks.push_back(task);
      report.expert_weights.push_back(row);
    }
  }
}

}  // namespace

void write_training_report(const std::filesystem::path& output, const train::TrainConfig& config,
                           const train::TrainResult& result) {
  eval::TrainingReport report;
  report.title = config.mode == train::Mode::full       ? "Full-parameter training"
                 : config.mode == train::Mode::new_task ? "A new task on a trained adapter"
                                                        : "MOELoRA training";
  report.facts = {
      {"base", config.model.init.is_null() ? config.model.path : "new model, random weights"},
      {"data", train::title_of(config.data.training())},
      {"steps", std::to_string(result.step) + " of " + std::to_string(config.training.steps)},
      {"tokens", std::to_string(result.tokens)},
      {"time", io::duration_text(result.seconds)},
      {"result", result.stopped ? "stopped; resume it with --resume"
                                : result.result.filename().string() + ", of step " + std::to_string(result.best_step)}};
  std::map<std::string, std::size_t> curves;
  std::ifstream log(output / "log.jsonl");
  for (std::string text; std::getline(log, text);) {
    const ordered_json line = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object() && line.contains("step")) {  // a line that a crash cut off is no reason to have no page
      add_line(report, curves, line);
    }
  }
  eval::write_training_report(output, report);
}

}  // namespace moelora::cli
