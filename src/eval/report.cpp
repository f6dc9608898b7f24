#include "moelora/eval/report.h"

#include <nlohmann/json.hpp>

#include "moelora/eval/page.h"
#include "moelora/eval/python_text.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"

namespace moelora::eval {
namespace {

using Json = nlohmann::ordered_json;

// A model's answer may hold bytes that are no UTF-8: they become U+FFFD instead of an error.
std::string dump_lenient(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Json facts_json(const Facts& facts) {
  Json json = Json::object();
  for (const auto& [name, value] : facts) json[name] = value;
  return json;
}

std::string facts_text(const std::string& title, const Facts& facts) {
  std::string lines = title + "\n";
  for (const auto& [name, value] : facts) lines += name + ": " + value + "\n";
  return lines + "\n";
}

std::vector<page::ScoreColumn> columns_of(const std::optional<Scores>& before, const Scores* after,
                                          const std::optional<Scores>& majority) {
  std::vector<page::ScoreColumn> columns;
  if (before) columns.push_back({"before", &*before, 2});
  if (after != nullptr) columns.push_back({before ? "after" : "scores", after, 0});
  if (majority) columns.push_back({"majority answer", &*majority, 1});
  return columns;
}

void write_scores(const std::filesystem::path& folder, const std::string& title, const Facts& facts,
                  const std::vector<page::ScoreColumn>& columns) {
  Json json;
  json["title"] = title;
  json["facts"] = facts_json(facts);
  std::string text = facts_text(title, facts);
  std::vector<std::pair<std::string, const Scores*>> compared;
  for (const auto& [name, scores, color] : columns) compared.emplace_back(name, scores);
  if (columns.size() > 1) text += comparison_table(compared) + "\n";
  for (const auto& [name, scores] : compared) {
    json[name == "majority answer" ? "majority" : name] = to_json(*scores);
    text += (columns.size() > 1 ? name + "\n" : "") + to_table(*scores) + "\n";
  }
  io::write_file_atomically(folder / "report.json", dump_lenient(json, 2) + "\n");
  io::write_file_atomically(folder / "report.txt", text::valid_utf8(text));
}

std::string task_charts(const std::vector<TaskLossCurve>& curves) {
  std::string cells;
  for (const TaskLossCurve& curve : curves) {
    const std::string chart = page::line_chart(
        {{"", curve.points, 0, true, false}, {"", page::smoothed(curve.points), 0, false, false}}, {300, 130});
    if (!chart.empty()) cells += "<div class=\"cell\"><b>" + page::escape(curve.task) + "</b>" + chart + "</div>\n";
  }
  return cells.empty() ? "" : "<div class=\"grid\">\n" + cells + "</div>\n";
}

}  // namespace

void write_evaluation_report(const std::filesystem::path& folder, const EvaluationReport& report) {
  constexpr std::size_t kExamples = 3;
  const auto columns = columns_of(report.before, &report.scores, report.majority);
  write_scores(folder, report.title, report.facts, columns);
  const std::string body = page::section("Scores", page::score_table(columns)) +
                           page::section("Examples", page::examples(report.references, report.predictions, kExamples));
  io::write_file_atomically(folder / "report.html", page::document(report.title, report.facts, body));
  if (report.predictions.empty()) return;
  data::write_predictions(folder / "predictions.json", report.predictions);
}

void write_training_report(const std::filesystem::path& folder, const TrainingReport& report) {
  MOELORA_CHECK(report.expert_weights.empty() || report.expert_weights.size() == report.tasks.size(),
                "expected a row of expert weights for each of ", report.tasks.size(), " tasks, found ",
                report.expert_weights.size());
  const auto columns = columns_of(report.before, report.after ? &*report.after : nullptr, report.majority);
  if (!columns.empty()) write_scores(folder, report.title, report.facts, columns);
  std::vector<page::Series> series{{"loss of each step", report.training_loss, 0, true, false},
                                   {"smoothed", page::smoothed(report.training_loss), 0, false, false},
                                   {"validation", report.validation_loss, 1, false, true}};
  const std::string body =
      page::section("Scores", page::score_table(columns)) +
      page::section("Loss", page::line_chart(series, {940, 320})) +
      page::section("Loss per task", task_charts(report.task_losses)) +
      page::section("Expert weights per task", page::weight_table(report.tasks, report.expert_weights));
  io::write_file_atomically(folder / "report.html", page::document(report.title, report.facts, body));
}

}  // namespace moelora::eval
