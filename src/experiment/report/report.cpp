#include "moelora/experiment/report.h"

#include <nlohmann/json.hpp>

#include "experiment/report/analysis.h"
#include "experiment/report/figures.h"
#include "experiment/report/json.h"
#include "experiment/report/tables.h"
#include "moelora/eval/page.h"
#include "moelora/eval/python_text.h"
#include "moelora/eval/text_table.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

namespace page = eval::page;

// Beside the style of all pages: many narrow columns, small intervals below numbers, bars with titles.
constexpr std::string_view kStyle = R"(
main{max-width:1260px}
h3{font-size:15px;margin:18px 0 6px}
table.dense th,table.dense td{padding:4px 6px;font-size:13px;line-height:1.3}table.dense th{font-size:12px;vertical-align:bottom}
table.dense td:first-child{min-width:120px}table.dense small{display:block;color:var(--soft);font-size:10.5px;font-weight:400;white-space:nowrap}
th.up{text-align:right}th.up span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
table.fit{width:auto}table.fit th,table.fit td{padding-left:12px;padding-right:12px}
.wide{grid-template-columns:repeat(auto-fit,minmax(500px,1fr))}.wide svg{max-width:480px}
svg text.value{fill:var(--ink);stroke:var(--panel);stroke-width:3px;paint-order:stroke}
.barlist{display:grid;grid-template-columns:max-content 1fr;gap:4px 14px;align-items:center;font-size:13px;margin-top:6px}
.barline{display:flex;align-items:center;gap:8px;min-height:16px}.barline i{flex:none;height:8px;border-radius:3px}.barline small{color:var(--soft)}
)";

std::string subheading(const std::string& text) { return "<h3>" + page::escape(text) + "</h3>\n"; }

std::string new_task_title(const NewTask& task) {
  return task.task + ": " + io::with_commas(task.examples) + " examples, scored on " +
         io::with_commas(static_cast<std::int64_t>(task.references.size())) + " samples";
}

std::vector<std::string> all_notes(const Results& results, const Analysis& analysis) {
  std::vector<std::string> notes;
  for (const MethodResults& row : results.methods) {
    if (!row.note.empty()) notes.push_back(row.title + ": " + row.note);
  }
  if (const auto titles = rows_of_one_seed(results); !titles.empty()) {
    notes.push_back("One seed only, so that the intervals hold no variance between seeds and are too narrow: " +
                    io::joined(titles) + ".");
  }
  notes.insert(notes.end(), results.notes.begin(), results.notes.end());
  if (!analysis.segmentation_note.empty()) notes.push_back(analysis.segmentation_note);
  return notes;
}

std::string task_list(const Analysis& analysis) {
  std::string text;
  for (const TaskFacts& task : analysis.tasks) {
    text += (text.empty() ? "" : "; ") + task.name + " (" + task.metric + ", " + io::with_commas(task.samples) + ")";
  }
  return text.empty() ? "" : "Tasks with their metric and number of samples: " + text + ".";
}

std::string bars_html(const Results& results) {
  std::string html;
  if (const std::string bars = share_bars(results); !bars.empty()) {
    html += "<div class=\"cell\"><b>trained parameters, share of the base</b>" + bars + "</div>\n";
  }
  if (const std::string bars = latency_bars(results); !bars.empty()) {
    html += "<div class=\"cell\"><b>milliseconds per generated token</b>" + bars + "</div>\n";
  }
  return html.empty() ? "" : "<div class=\"grid wide\">\n" + html + "</div>\n";
}

std::string sweeps_html(const Results& results, const Analysis& analysis) {
  std::string html;
  for (const std::string& parameter : swept_parameters(results)) {
    html += "<div class=\"cell\"><b>average score against " + page::escape(parameter) + "</b>" +
            sweep_chart(results, analysis, parameter) + to_html(sweep_table(results, analysis, parameter)) + "</div>\n";
  }
  return html.empty() ? "" : "<div class=\"grid wide\">\n" + html + "</div>\n";
}

std::string notes_html(const std::vector<std::string>& notes) {
  std::string html;
  for (const std::string& note : notes) html += "<li>" + page::escape(note) + "</li>\n";
  return html.empty() ? "" : "<ul>\n" + html + "</ul>\n";
}

std::string html_page(const Results& results, const Analysis& analysis) {
  std::string scores = to_html(score_table(results, analysis));
  if (const std::string tasks = task_list(analysis); !tasks.empty()) {
    scores += "<p class=\"note\">" + page::escape(tasks) + "</p>\n";
  }
  std::string weights;
  for (const ExpertWeights& each : results.expert_weights) {
    weights += subheading(each.title) + page::weight_table(each.tasks, each.weights);
  }
  std::string new_tasks;
  for (std::size_t i = 0; i < results.new_tasks.size(); ++i) {
    new_tasks += subheading(new_task_title(results.new_tasks[i])) + to_html(new_task_table(results, analysis, i));
  }
  const std::string body =
      page::section("Scores", scores) +
      page::section("Seesaw: gain or loss against one adapter per task", to_html(seesaw_table(results, analysis))) +
      page::section("Parameters", to_html(parameter_table(results, analysis))) +
      page::section("Time and memory", to_html(cost_table(results))) +
      page::section("Parameters and latency at a glance", bars_html(results)) +
      page::section("Sweeps", sweeps_html(results, analysis)) + page::section("Expert weights per task", weights) +
      page::section("A new task from a few examples", new_tasks) +
      page::section("Learning rates", to_html(tuning_table(results))) +
      page::section("Notes", notes_html(all_notes(results, analysis)));
  return page::document(results.title, results.facts, body, kStyle);
}

std::string markdown_section(const std::string& heading, const std::string& body) {
  return body.empty() ? "" : "## " + heading + "\n\n" + body + "\n";
}

std::string markdown_subsection(const std::string& heading, const std::string& body) {
  return body.empty() ? "" : "### " + markdown_escaped(heading) + "\n\n" + body + "\n";
}

std::string markdown_page(const Results& results, const Analysis& analysis) {
  std::string text = "# " + markdown_escaped(results.title) + "\n\n";
  for (const auto& [name, value] : results.facts) {
    text += "- " + markdown_escaped(name) + ": " + markdown_escaped(value) + "\n";
  }
  if (!results.facts.empty()) text += "\n";
  // Wide tables in two parts: what a page without scrolling has room for.
  const Table score = score_table(results, analysis);
  const Table seesaw = seesaw_table(results, analysis);
  const std::string seesaw_tasks =
      analysis.tasks.empty() ? "" : markdown_subsection("Points by task", to_markdown(rest_of(seesaw, kSeesawSummary)));
  std::string by_task = analysis.tasks.empty() ? "" : to_markdown(rest_of(score, kScoreSummary));
  if (const std::string tasks = task_list(analysis); !tasks.empty()) by_task += "\n" + markdown_escaped(tasks) + "\n";
  std::string sweeps;
  for (const std::string& parameter : swept_parameters(results)) {
    sweeps += markdown_subsection(parameter, to_markdown(sweep_table(results, analysis, parameter)));
  }
  std::string weights;
  for (const ExpertWeights& each : results.expert_weights) {
    weights += markdown_subsection(each.title, to_markdown(expert_table(each)));
  }
  std::string new_tasks;
  for (std::size_t i = 0; i < results.new_tasks.size(); ++i) {
    new_tasks +=
        markdown_subsection(new_task_title(results.new_tasks[i]), to_markdown(new_task_table(results, analysis, i)));
  }
  std::string notes;
  for (const std::string& note : all_notes(results, analysis)) notes += "- " + markdown_escaped(note) + "\n";
  return text + markdown_section("Scores", to_markdown(summary_of(score, kScoreSummary))) +
         markdown_section("Scores by task", by_task) +
         markdown_section("Intervals of the tasks' scores", to_markdown(interval_table(results, analysis))) +
         markdown_section("Seesaw: gain or loss against one adapter per task",
                          to_markdown(summary_of(seesaw, kSeesawSummary))) +
         seesaw_tasks + markdown_section("Parameters", to_markdown(parameter_table(results, analysis))) +
         markdown_section("Time and memory", to_markdown(cost_table(results))) + markdown_section("Sweeps", sweeps) +
         markdown_section("Expert weights per task", weights) +
         markdown_section("A new task from a few examples", new_tasks) +
         markdown_section("Learning rates", to_markdown(tuning_table(results))) + markdown_section("Notes", notes);
}

std::string with_mark(const TableCell& cell) {
  return cell.text + (cell.mark == Mark::best ? "*" : cell.mark == Mark::second ? "+" : " ");
}

std::string overview(const Table& scores, std::size_t methods) {
  std::vector<std::vector<std::string>> lines{{"#", scores.columns[0].title, scores.columns[1].title,
                                               scores.columns[2].title + " ", "interval", scores.columns[3].title,
                                               "interval", scores.columns[4].title}};
  for (std::size_t i = 0; i < scores.lines.size(); ++i) {
    const auto& row = scores.lines[i];
    lines.push_back({i < methods ? std::to_string(i + 1) : "", row[0].text, row[1].text, with_mark(row[2]),
                     row[2].detail, row[3].text, row[3].detail, row[4].text});
  }
  return eval::aligned(lines, 2);
}

// Methods are columns here, by their number in the overview: as many fit a terminal.
std::string scores_by_task(const Table& scores, const Analysis& analysis, std::size_t methods) {
  std::vector<std::vector<std::string>> lines{{"task", "metric", "samples"}};
  for (std::size_t i = 0; i < scores.lines.size(); ++i) {
    lines.front().push_back(i < methods ? "#" + std::to_string(i + 1) + " " : "majority ");
  }
  for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
    const TaskFacts& facts = analysis.tasks[task];
    lines.push_back({facts.name, facts.metric, std::to_string(facts.samples)});
    for (const auto& row : scores.lines) lines.back().push_back(with_mark(row[kScoreSummary + task]));
  }
  return eval::aligned(lines, 2);
}

}  // namespace

void write_experiment_report(const std::filesystem::path& folder, const Results& results) {
  const Analysis analysis = analyse(results);
  using Json = nlohmann::ordered_json;
  // A title may hold bytes that are no UTF-8: they become U+FFFD instead of an error.
  const std::string json = to_json(results, analysis).dump(2, ' ', false, Json::error_handler_t::replace);
  io::write_file_atomically(folder / "results.json", json + "\n");
  io::write_file_atomically(folder / "results.md", eval::text::valid_utf8(markdown_page(results, analysis)));
  io::write_file_atomically(folder / "results.html", html_page(results, analysis));
}

std::string main_table(const Results& results) {
  const Analysis analysis = analyse(results);
  const Table scores = score_table(results, analysis);
  if (scores.lines.empty()) return "no methods yet\n";
  const std::size_t methods = results.methods.size();
  std::string text = overview(scores, methods) + "\n" + scores_by_task(scores, analysis, methods) +
                     "percent; * best, + second best of the methods\n";
  if (!rows_of_one_seed(results).empty()) text += kOneSeedMeaning + "\n";
  if (!analysis.segmentation_note.empty()) text += analysis.segmentation_note + "\n";
  return text;
}

}  // namespace moelora::experiment
