#pragma once
// Reports for people and programs: tables, JSON and one self-contained HTML page (no script, nothing loaded).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "moelora/data/record.h"
#include "moelora/eval/scorer.h"

namespace moelora::eval {

/// Lines "name: value" below a report's title: model, data, settings, time.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct EvaluationReport {
  std::string title;
  Facts facts;
  Scores scores;
  std::optional<Scores> before;           ///< the same data before training
  std::optional<Scores> majority;         ///< majority_scores
  std::vector<data::Record> predictions;  ///< `target` is the model's answer; empty: not written
  /// Records in the order of the predictions; with them the page shows examples. May be empty.
  std::vector<data::Record> references;
};

/// Writes report.json, report.txt, report.html and, where there are predictions, predictions.json (JSON lines, readable
/// by data::read_records) into `folder`, each atomically.
void write_evaluation_report(const std::filesystem::path& folder, const EvaluationReport& report);

struct LossPoint {
  std::int64_t step = 0;
  double loss = 0;  ///< A value that is not finite is left out of charts.
};

struct TaskLossCurve {
  std::string task;
  std::vector<LossPoint> points;
};

struct TrainingReport {
  std::string title;
  Facts facts;
  std::vector<LossPoint> training_loss;
  std::vector<LossPoint> validation_loss;           ///< may be empty
  std::vector<TaskLossCurve> task_losses;           ///< may be empty
  std::vector<std::string> tasks;                   ///< rows of expert_weights
  std::vector<std::vector<double>> expert_weights;  ///< [tasks][N], each row sums to 1; may be empty
  std::optional<Scores> before;
  std::optional<Scores> after;
  std::optional<Scores> majority;
};

/// Writes report.html and, where there are scores, report.json and report.txt into `folder`, each atomically.
/// Error: expert_weights and tasks differ in length.
void write_training_report(const std::filesystem::path& folder, const TrainingReport& report);

}  // namespace moelora::eval
