#include "moelora/eval/page.h"

#include <algorithm>
#include <map>

#include "moelora/eval/python_text.h"
#include "moelora/io/readable.h"

namespace moelora::eval::page {
namespace {

constexpr std::string_view kStyle = R"(
:root{--ink:#1d2430;--soft:#667085;--line:#e3e7ee;--back:#fff;--panel:#f7f9fc;--c0:#2563eb;--c1:#d9480f;--c2:#98a2b3;--c3:#0f9d75}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf2;--soft:#98a2b3;--line:#2c3442;--back:#12161d;--panel:#1a202a;--c0:#6ea0ff;--c1:#ff9a5c;--c2:#667085;--c3:#4fd1a5}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
main{max-width:980px;margin:0 auto;padding:32px 20px 60px}
h1{font-size:26px;margin:0 0 10px}h2{font-size:18px;margin:36px 0 10px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0;color:var(--soft)}dd{margin:0;color:var(--ink);overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:left;vertical-align:middle}
th{color:var(--soft);font-weight:600;font-size:13px}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.total td{font-weight:700;border-top:2px solid var(--line);border-bottom:0}
.bars{min-width:170px}.bar{height:7px;border-radius:3px;margin:2px 0}.scroll{overflow-x:auto}
.note{color:var(--soft);font-size:13px}.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0;font-size:13px;color:var(--soft)}
.legend i{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:6px;vertical-align:middle}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(280px,1fr));gap:14px}.cell{background:var(--panel);border-radius:8px;padding:10px 12px}
.cell b{font-size:13px}svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
details{border-bottom:1px solid var(--line);padding:6px 0}summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:2px 0 10px;font:13px/1.5 inherit;font-family:inherit;background:var(--panel);padding:8px 10px;border-radius:6px}
)";

std::string color_of(const ScoreColumn& column) { return "var(--c" + std::to_string(column.color) + ")"; }

std::string legend_entry(const std::string& name, const std::string& color) {
  return "<span><i style=\"background:" + color + "\"></i>" + escape(name) + "</span>";
}

std::string bars_of(const std::vector<ScoreColumn>& columns, const std::vector<const double*>& values) {
  std::string bars;
  for (std::size_t column = 0; column < values.size(); ++column) {
    if (values[column] == nullptr) continue;
    const double width = std::clamp(*values[column], 0.0, 1.0) * 100;
    bars += "<div class=\"bar\" style=\"width:" + io::fixed(std::max(width, 0.5), 1) +
            "%;background:" + color_of(columns[column]) + "\"></div>";
  }
  return bars;
}

std::string number_cells(const std::vector<const double*>& values) {
  std::string cells;
  for (const double* value : values) {
    cells += "<td class=\"n\">" + (value == nullptr ? std::string("–") : io::fixed(*value, 4)) + "</td>";
  }
  return cells;
}

// A long input would hide the answers; its end holds the question.
std::string last_characters(std::string_view text, std::size_t limit) {
  const auto characters = text::characters(text);
  if (characters.size() <= limit) return std::string(text);
  const std::string_view first = characters[characters.size() - limit];
  return "… " + std::string(text.substr(static_cast<std::size_t>(first.data() - text.data())));
}

std::string first_characters(std::string_view text, std::size_t limit) {
  const auto characters = text::characters(text);
  if (characters.size() <= limit) return std::string(text);
  return std::string(text.substr(0, static_cast<std::size_t>(characters[limit].data() - text.data()))) + " …";
}

}  // namespace

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text::valid_utf8(text)) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        // Control characters are not allowed in HTML.
        escaped += static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t' ? ' ' : c;
    }
  }
  return escaped;
}

std::string document(const std::string& title, const Facts& facts, const std::string& body, std::string_view style) {
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" + escape(title) +
          "</title>\n<style>" + std::string(kStyle).append(style) + "</style>\n</head>\n<body>\n<main>\n<h1>" +
          escape(title) + "</h1>\n";
  if (!facts.empty()) {
    page += "<dl>";
    for (const auto& [name, value] : facts) page += "<dt>" + escape(name) + "</dt><dd>" + escape(value) + "</dd>";
    page += "</dl>\n";
  }
  return page + body + "</main>\n</body>\n</html>\n";
}

std::string section(const std::string& heading, const std::string& body) {
  return body.empty() ? "" : "<h2>" + escape(heading) + "</h2>\n" + body + "\n";
}

std::string score_table(const std::vector<ScoreColumn>& columns) {
  std::string legend;
  std::string head = "<tr><th>task</th><th>metric</th><th class=\"n\">samples</th>";
  std::vector<const TaskScore*> tasks;
  std::vector<const double*> averages;
  std::string note;
  std::string left_out;
  for (const ScoreColumn& column : columns) {
    const Scores* scores = column.scores;
    head += "<th class=\"n\">" + escape(column.name) + "</th>";
    legend += legend_entry(column.name, color_of(column));
    averages.push_back(&scores->average);
    if (note.empty()) note = segmentation_note(*scores);
    if (left_out.empty()) left_out = left_out_note(*scores);
    for (const TaskScore& task : scores->tasks) {
      const bool known = std::any_of(tasks.begin(), tasks.end(), [&](const auto* t) { return t->task == task.task; });
      if (!known) tasks.push_back(&task);
    }
  }
  if (tasks.empty()) return "";
  std::string rows;
  for (const TaskScore* task : tasks) {
    std::vector<const double*> values;
    for (const auto& column : columns) {
      const TaskScore* found = column.scores->find(task->task);
      values.push_back(found == nullptr ? nullptr : &found->score);
    }
    rows += "<tr><td>" + escape(task->task) + "</td><td>" + escape(task->metric) + "</td><td class=\"n\">" +
            std::to_string(task->samples) + "</td>" + number_cells(values) + "<td class=\"bars\">" +
            bars_of(columns, values) + "</td></tr>\n";
  }
  rows += "<tr class=\"total\"><td>average</td><td></td><td></td>" + number_cells(averages) + "<td class=\"bars\">" +
          bars_of(columns, averages) + "</td></tr>\n";
  std::string table = columns.size() > 1 ? "<div class=\"legend\">" + legend + "</div>\n" : "";
  table += "<div class=\"scroll\"><table>\n" + head + "<th></th></tr>\n" + rows + "</table></div>\n";
  for (const std::string& text : {note, left_out}) {
    if (!text.empty()) table += "<p class=\"note\">" + escape(text) + "</p>\n";
  }
  return table;
}

std::string weight_table(const std::vector<std::string>& tasks, const std::vector<std::vector<double>>& weights) {
  if (weights.empty()) return "";
  double largest = 1e-9;
  std::size_t experts = 0;
  for (const auto& row : weights) {
    experts = std::max(experts, row.size());
    for (const double weight : row) largest = std::max(largest, weight);
  }
  std::string table = "<div class=\"scroll\"><table>\n<tr><th>task</th>";
  for (std::size_t i = 0; i < experts; ++i) table += "<th class=\"n\">expert " + std::to_string(i + 1) + "</th>";
  table += "</tr>\n";
  for (std::size_t task = 0; task < weights.size(); ++task) {
    table += "<tr><td>" + escape(tasks[task]) + "</td>";
    for (const double weight : weights[task]) {
      const std::string share = io::fixed(std::clamp(weight / largest, 0.0, 1.0) * 55, 0);
      table += "<td class=\"n\" style=\"background:color-mix(in srgb,var(--c0) " + share + "%,transparent)\">" +
               io::fixed(weight, 3) + "</td>";
    }
    table += "</tr>\n";
  }
  return table + "</table></div>\n";
}

std::string examples(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
                     std::size_t count) {
  constexpr std::size_t kInputCharacters = 300;
  constexpr std::size_t kAnswerCharacters = 600;
  struct TaskExamples {
    std::string html;
    std::size_t count = 0;
  };
  std::map<std::string, TaskExamples> by_task;
  for (std::size_t i = 0; i < std::min(references.size(), predictions.size()); ++i) {
    TaskExamples& task = by_task[references[i].task];
    if (task.count++ >= count) continue;
    task.html += "<div class=\"note\">input</div><pre>" +
                 escape(last_characters(references[i].input, kInputCharacters)) +
                 "</pre><div class=\"note\">reference</div><pre>" +
                 (has_target(references[i]) ? escape(first_characters(references[i].target, kAnswerCharacters))
                                            : std::string("none: not scored")) +
                 "</pre><div class=\"note\">answer</div><pre>" +
                 escape(first_characters(predictions[i].target, kAnswerCharacters)) + "</pre>\n";
  }
  std::string html;
  for (const auto& [name, task] : by_task) {
    html += "<details><summary>" + escape(name) + "</summary>\n" + task.html + "</details>\n";
  }
  return html;
}

}  // namespace moelora::eval::page
