// Scores as a table for terminals and as JSON for programs.

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moelora/eval/python_text.h"
#include "moelora/eval/scorer.h"
#include "moelora/eval/text_table.h"
#include "moelora/io/readable.h"

namespace moelora::eval {
namespace {

std::string four_digits(double value) { return io::fixed(value, 4); }

std::string four_digits(const std::optional<double>& value) { return value ? four_digits(*value) : "-"; }

}  // namespace

std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t left) {
  std::vector<std::int64_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], text::display_width(row[c]));
  }
  std::string table;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string padding(static_cast<std::size_t>(widths[c] - text::display_width(row[c])), ' ');
      if (c > 0) line += "  ";
      line += c < left ? row[c] + padding : padding + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

nlohmann::ordered_json to_json(const Scores& scores) {
  nlohmann::ordered_json json;
  json["scorer"] = scores.scorer;
  json["segmentation"] = scores.segmentation;
  if (const std::string note = segmentation_note(scores); !note.empty()) json["note"] = note;
  json["average"] = scores.average;
  json["samples"] = scores.samples;
  json["unparsable"] = scores.unparsable;
  json["left_out"] = scores.left_out.count;
  if (scores.left_out.count > 0) json["left_out_records"] = scores.left_out.text();
  json["tasks"] = nlohmann::ordered_json::object();
  for (const TaskScore& task : scores.tasks) {
    nlohmann::ordered_json& entry = json["tasks"][task.task];
    entry["score"] = task.score;
    entry["metric"] = task.metric;
    if (task.precision) entry["precision"] = *task.precision;
    if (task.recall) entry["recall"] = *task.recall;
    if (task.rouge_1) entry["rouge_1"] = *task.rouge_1;
    if (task.rouge_2) entry["rouge_2"] = *task.rouge_2;
    entry["samples"] = task.samples;
    entry["unparsable"] = task.unparsable;
    if (task.segmented) entry["segmentation"] = scores.segmentation;
    for (const LabelF1& label : task.labels) {
      entry["labels"][label.label] = {{"f1", label.f1}, {"samples", label.support}};
    }
  }
  return json;
}

std::string segmentation_note(const Scores& scores) {
  std::string tasks;
  for (const TaskScore& task : scores.tasks) {
    if (task.segmented) tasks += (tasks.empty() ? "" : ", ") + task.task;
  }
  if (tasks.empty() || scores.segmentation == "jieba") return "";
  return "Rouge-L of " + tasks + " compares " + scores.segmentation +
         "; the reference evaluation compares words cut by jieba, so these scores differ from its scores "
         "(cmake/setup.sh "
         "fetches jieba's tables, MOELORA_JIEBA_DIR names their folder).";
}

std::string left_out_note(const Scores& scores) {
  if (scores.left_out.count == 0) return "";
  return "Scored: " + std::to_string(scores.samples) + " of " + std::to_string(scores.samples + scores.left_out.count) +
         " records; left out, because they have no target: " + scores.left_out.text() + ".";
}

std::string to_table(const Scores& scores) {
  std::vector<std::vector<std::string>> rows{
      {"task", "metric", "score", "precision", "recall", "samples", "unparsable"}};
  for (const TaskScore& task : scores.tasks) {
    rows.push_back({task.task, task.metric, four_digits(task.score), four_digits(task.precision),
                    four_digits(task.recall), std::to_string(task.samples), std::to_string(task.unparsable)});
  }
  rows.push_back({"average", "", four_digits(scores.average), "", "", std::to_string(scores.samples),
                  std::to_string(scores.unparsable)});
  std::string table = aligned(rows, 2);
  for (const std::string& note : {segmentation_note(scores), left_out_note(scores)}) {
    if (!note.empty()) table += note + "\n";
  }
  return table;
}

std::string comparison_table(const std::vector<std::pair<std::string, const Scores*>>& columns) {
  std::vector<std::vector<std::string>> rows{{"task", "metric", "samples"}};
  std::vector<std::string> average{"average", "", ""};
  std::vector<std::string> tasks;
  for (const auto& [name, scores] : columns) {
    rows.front().push_back(name);
    average.push_back(four_digits(scores->average));
    for (const TaskScore& task : scores->tasks) {
      if (std::find(tasks.begin(), tasks.end(), task.task) != tasks.end()) continue;
      tasks.push_back(task.task);
      rows.push_back({task.task, task.metric, std::to_string(task.samples)});
    }
  }
  for (std::size_t row = 0; row < tasks.size(); ++row) {
    for (const auto& [name, scores] : columns) {
      const TaskScore* task = scores->find(tasks[row]);
      rows[row + 1].push_back(task == nullptr ? "-" : four_digits(task->score));
    }
  }
  rows.push_back(average);
  std::string table = aligned(rows, 2);
  if (!columns.empty()) {
    const Scores& first = *columns.front().second;
    for (const std::string& note : {segmentation_note(first), left_out_note(first)}) {
      if (!note.empty()) table += note + "\n";
    }
  }
  return table;
}

}  // namespace moelora::eval
