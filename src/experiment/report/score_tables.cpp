#include <algorithm>

#include "experiment/report/tables.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

TableCell plain(std::string text) { return {std::move(text), "", Mark::none, 0, false}; }

TableCell score_cell(const std::optional<eval::Interval>& score, Mark mark) {
  if (!score) return plain(kMissing);
  return {percent(score->value), percent_range(score->low, score->high), mark, 0, false};
}

TableCell task_cell(const std::optional<eval::Interval>& score, Mark mark) {
  if (!score) return plain(kMissing);
  return {percent(score->value), whole_percent_range(score->low, score->high), mark, 0, false};
}

// Bold where the interval leaves zero out and knows of more than one seed.
TableCell difference_cell(const std::optional<eval::Difference>& difference) {
  if (!difference) return plain(kMissing);
  const eval::Interval& interval = difference->interval;
  return {signed_percent(interval.value), signed_range(interval.low, interval.high), Mark::none, 0,
          difference->seeds > 1 && (sign_as_displayed(interval.low) > 0 || sign_as_displayed(interval.high) < 0)};
}

std::string one_seed_mark(const std::vector<Run>& runs) { return runs.size() == 1 ? " †" : ""; }

TableCell seeds_cell(const std::vector<Run>& runs) {
  return plain(runs.empty() ? kMissing : std::to_string(runs.size()) + one_seed_mark(runs));
}

std::string resampling_note(const Analysis& analysis) {
  return io::fixed(analysis.options.level * 100, 0) + " % percentile intervals of " +
         io::with_commas(analysis.options.resamples) + " resamples of each task's samples and of the seeds";
}

std::vector<std::vector<Mark>> marks_by_column(const Results& results, const Analysis& analysis) {
  std::vector<std::vector<Mark>> marks;
  for (std::size_t task = 0; task <= analysis.tasks.size(); ++task) {
    std::vector<std::optional<double>> values;
    for (std::size_t row = 0; row < results.methods.size(); ++row) {
      const auto score =
          task < analysis.tasks.size() ? analysis.bootstrap.score(row, task) : analysis.bootstrap.average(row);
      const bool competes = score && analysis.base != row;
      values.push_back(competes ? std::optional<double>(score->value) : std::nullopt);
    }
    marks.push_back(marks_of(values));
  }
  return marks;
}

void add_task_columns(const Analysis& analysis, Table& table, bool is_task) {
  for (const TaskFacts& task : analysis.tasks) table.columns.push_back({task.name, true, is_task});
}

std::vector<TableCell> majority_row(const eval::Scores& majority, const Analysis& analysis) {
  std::vector<TableCell> row{plain("majority answer"), plain(kMissing), plain(percent(majority.average)),
                             plain(kMissing), plain(kMissing)};
  for (const TaskFacts& task : analysis.tasks) {
    const eval::TaskScore* score = majority.find(task.name);
    row.push_back(plain(score == nullptr ? kMissing : percent(score->score)));
  }
  return row;
}

// The strongest shade at ten points.
double shade_of(const std::optional<eval::Difference>& difference) {
  return difference ? std::clamp(difference->interval.value * 10, -1.0, 1.0) : 0.0;
}

}  // namespace

std::string title_or(const Results& results, std::optional<std::size_t> row, const std::string& key) {
  return row ? results.methods[*row].title : key;
}

Table score_table(const Results& results, const Analysis& analysis) {
  const std::string baseline = title_or(results, analysis.baseline, results.baseline);
  Table table;
  table.columns = {{"method", false}, {"seeds"}, {"average"}, {"against " + baseline}, {"share ≤ 0"}};
  add_task_columns(analysis, table, true);
  const auto marks = marks_by_column(results, analysis);
  for (std::size_t i = 0; i < results.methods.size(); ++i) {
    const MethodResults& row = results.methods[i];
    std::vector<TableCell> cells{plain(row.title), seeds_cell(row.runs),
                                 score_cell(analysis.bootstrap.average(i), marks.back()[i])};
    const bool is_baseline = analysis.baseline == i;
    const auto difference =
        analysis.baseline && !is_baseline ? analysis.bootstrap.average_difference(i, *analysis.baseline) : std::nullopt;
    cells.push_back(is_baseline ? plain("baseline") : difference_cell(difference));
    cells.push_back(plain(difference ? percent(difference->share_not_above) + " %" : kMissing));
    for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
      cells.push_back(task_cell(analysis.bootstrap.score(i, task), marks[task][i]));
    }
    table.lines.push_back(std::move(cells));
  }
  if (results.majority && !table.lines.empty()) table.lines.push_back(majority_row(*results.majority, analysis));
  table.note =
      "Percent; differences in points. Bold: best of a column" +
      (analysis.base ? ", " + title_or(results, analysis.base, results.base) + " and the majority answer apart" : "") +
      "; a bold difference's interval leaves out zero and knows of more than one seed. In small or in brackets: " +
      resampling_note(analysis) +
      "; differences paired over the same resamples, on the seeds that both methods have. Share ≤ 0: of the resamples' "
      "differences.";
  if (!rows_of_one_seed(results).empty()) table.note += " " + kOneSeedMeaning;
  return table;
}

Table interval_table(const Results& results, const Analysis& analysis) {
  Table table;
  if (analysis.tasks.empty()) return table;
  table.columns = {{"method", false}};
  add_task_columns(analysis, table, false);
  for (std::size_t i = 0; i < results.methods.size(); ++i) {
    std::vector<TableCell> cells{plain(results.methods[i].title + one_seed_mark(results.methods[i].runs))};
    for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
      const auto score = analysis.bootstrap.score(i, task);
      cells.push_back(plain(score ? percent_range(score->low, score->high) : kMissing));
    }
    table.lines.push_back(std::move(cells));
  }
  if (!rows_of_one_seed(results).empty()) table.note = kOneSeedMeaning;
  return table;
}

Table seesaw_table(const Results& results, const Analysis& analysis) {
  Table table;
  const std::string single = title_or(results, analysis.single, results.single);
  if (!analysis.single || results.methods[*analysis.single].runs.empty()) {
    table.note = single + " has no finished run: there is nothing to compare with yet.";
  } else {
    table.note = "Points against " + single +
                 ", each task's own adapter, on the seeds that both have. Bold: the paired interval leaves out zero "
                 "and knows of "
                 "more than one seed.";
    if (!rows_of_one_seed(results).empty()) table.note += " " + kOneSeedMeaning;
  }
  table.columns = {{"method", false}, {"average"}, {"better"}, {"worse"}};
  add_task_columns(analysis, table, true);
  for (std::size_t i = 0; i < results.methods.size(); ++i) {
    if (analysis.single == i) continue;
    const auto against_single = [&](auto&& of) { return analysis.single ? of(*analysis.single) : std::nullopt; };
    std::vector<TableCell> cells;
    std::int64_t better = 0;
    std::int64_t worse = 0;
    bool any = false;
    for (std::size_t task = 0; task < analysis.tasks.size(); ++task) {
      const auto difference = against_single([&](std::size_t s) { return analysis.bootstrap.difference(i, s, task); });
      cells.push_back(difference_cell(difference));
      cells.back().detail.clear();
      cells.back().shade = shade_of(difference);
      if (!difference) continue;
      any = true;
      better += sign_as_displayed(difference->interval.value) > 0 ? 1 : 0;
      worse += sign_as_displayed(difference->interval.value) < 0 ? 1 : 0;
    }
    const auto average = against_single([&](std::size_t s) { return analysis.bootstrap.average_difference(i, s); });
    std::vector<TableCell> row{plain(results.methods[i].title + one_seed_mark(results.methods[i].runs)),
                               difference_cell(average), plain(any ? std::to_string(better) : kMissing),
                               plain(any ? std::to_string(worse) : kMissing)};
    row.insert(row.end(), cells.begin(), cells.end());
    table.lines.push_back(std::move(row));
  }
  return table;
}

Table sweep_table(const Results& results, const Analysis& analysis, const std::string& parameter) {
  Table table;
  table.columns = {{"setting", false}, {parameter}, {"seeds"}, {"average"}, {"trained parameters"}};
  const std::vector<std::size_t> points = points_of(results, parameter);
  std::vector<std::optional<double>> values;
  for (const std::size_t i : points) {
    const auto score = analysis.bootstrap.average(results.methods.size() + i);
    values.push_back(score ? std::optional<double>(score->value) : std::nullopt);
  }
  const std::vector<Mark> marks = marks_of(values);
  bool has_one_seed = false;
  for (std::size_t place = 0; place < points.size(); ++place) {
    const SweepPoint& point = results.sweeps[points[place]];
    TableCell setting = plain(point.title);
    if (point.reference) setting.detail = "common setting";
    table.lines.push_back({std::move(setting), plain(std::to_string(point.value)), seeds_cell(point.runs),
                           score_cell(analysis.bootstrap.average(results.methods.size() + points[place]), marks[place]),
                           plain(point.trained_parameters > 0 ? io::with_commas(point.trained_parameters) : kMissing)});
    has_one_seed = has_one_seed || point.runs.size() == 1;
  }
  if (has_one_seed) table.note = kOneSeedMeaning;
  return table;
}

Table new_task_table(const Results& results, const Analysis& analysis, std::size_t index) {
  const NewTask& task = results.new_tasks[index];
  const eval::Bootstrap& bootstrap = analysis.new_tasks[index];
  Table table;
  table.columns = {{"method", false}, {"trained parameters"}, {"of the base"}, {"seeds"}, {"score"}};
  std::vector<std::optional<double>> values;
  for (std::size_t i = 0; i < task.entries.size(); ++i) {
    const auto score = bootstrap.average(i);
    values.push_back(score ? std::optional<double>(score->value) : std::nullopt);
  }
  const std::vector<Mark> marks = marks_of(values);
  bool has_one_seed = false;
  for (std::size_t i = 0; i < task.entries.size(); ++i) {
    const NewTaskEntry& entry = task.entries[i];
    const auto share = share_of_base(results, entry.trained_parameters);
    has_one_seed = has_one_seed || entry.runs.size() == 1;
    table.lines.push_back({plain(entry.title),
                           plain(entry.trained_parameters > 0 ? io::with_commas(entry.trained_parameters) : kMissing),
                           plain(share ? short_number(*share * 100) + " %" : kMissing), seeds_cell(entry.runs),
                           score_cell(bootstrap.average(i), marks[i])});
  }
  if (has_one_seed) table.note = kOneSeedMeaning;
  return table;
}

}  // namespace moelora::experiment
