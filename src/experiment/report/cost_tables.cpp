#include <algorithm>
#include <cmath>
#include <set>

#include "experiment/report/tables.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

TableCell text_cell(std::string text) { return {std::move(text), "", Mark::none, 0, false}; }

template <typename Format>
TableCell optional_cell(const std::optional<double>& value, const Format& format) {
  return text_cell(value && std::isfinite(*value) ? format(*value) : kMissing);
}

TableCell count_cell(std::int64_t count) { return text_cell(count > 0 ? io::with_commas(count) : kMissing); }

TableCell merged_cell(const MethodResults& row) {
  if (!row.not_merged.empty()) return {"no", row.not_merged, Mark::none, 0, false};
  return optional_cell(row.ms_per_token_merged, [](double ms) { return io::fixed(ms, 2); });
}

std::string signed_deviation(double share) {
  const std::string digits = io::fixed(std::abs(share) * 100, 2);
  return (digits == "0.00" ? "" : share > 0 ? "+" : "−") + digits + " %";
}

}  // namespace

Table parameter_table(const Results& results, const Analysis& analysis) {
  const std::string measure = title_or(results, analysis.equal_to, results.equal_to);
  Table table;
  table.columns = {{"method", false},
                   {"trained parameters"},
                   {"of the base"},
                   {"of it the gate"},
                   {"apart from the gate, against " + measure},
                   {"learning rate"},
                   {"steps"},
                   {"validation loss"}};
  for (const MethodResults& row : results.methods) {
    const bool is_known = row.trained_parameters > 0;
    table.lines.push_back({text_cell(row.title), count_cell(row.trained_parameters),
                           optional_cell(share_of_base(results, row.trained_parameters),
                                         [](double share) { return short_number(share * 100) + " %"; }),
                           text_cell(is_known ? io::with_commas(row.gate_parameters) : kMissing),
                           optional_cell(parameter_deviation(results, analysis, row), signed_deviation),
                           optional_cell(row.learning_rate, short_number), count_cell(row.steps),
                           optional_cell(row.validation_loss, [](double loss) { return io::fixed(loss, 3); })});
  }
  if (results.base_parameters > 0)
    table.note = "The base has " + io::with_commas(results.base_parameters) + " parameters.";
  return table;
}

Table cost_table(const Results& results) {
  const auto measure = std::find_if(results.methods.begin(), results.methods.end(),
                                    [&](const MethodResults& row) { return row.key == results.equal_to; });
  const std::string title = measure == results.methods.end() ? results.equal_to : measure->title;
  Table table;
  table.columns = {{"method", false}, {"training"},     {"peak memory"},
                   {"step time, ×"},  {"ms per token"}, {"merged, ms per token"}};
  for (const MethodResults& row : results.methods) {
    TableCell ratio = text_cell(kMissing);
    if (row.step_ratio) {
      ratio.text = io::fixed(row.step_ratio->median, 3) + " ×";
      ratio.detail = io::fixed(row.step_ratio->low, 3) + "–" + io::fixed(row.step_ratio->high, 3);
    }
    TableCell training = optional_cell(row.training_seconds, io::rounded_duration);
    training.detail = row.cost_note;
    table.lines.push_back(
        {text_cell(row.title), std::move(training), optional_cell(row.peak_memory_bytes, memory_size), std::move(ratio),
         optional_cell(row.ms_per_token, [](double ms) { return io::fixed(ms, 2); }), merged_cell(row)});
  }
  table.note =
      "Training: time of one run, in small or in brackets what it needs beside it. Step time: forward and backward "
      "pass and optimizer, over that of " +
      title + "; median and 95 % interval. Milliseconds: per generated token.";
  return table;
}

Table expert_table(const ExpertWeights& weights) {
  Table table;
  table.columns = {{"task", false}};
  const std::size_t experts = weights.weights.empty() ? 0 : weights.weights.front().size();
  for (std::size_t i = 0; i < experts; ++i) table.columns.push_back({"expert " + std::to_string(i + 1)});
  for (std::size_t task = 0; task < weights.weights.size(); ++task) {
    std::vector<TableCell> cells{text_cell(weights.tasks[task])};
    for (const double weight : weights.weights[task]) cells.push_back(text_cell(io::fixed(weight, 3)));
    table.lines.push_back(std::move(cells));
  }
  return table;
}

Table tuning_table(const Results& results) {
  std::set<double> rates;
  for (const Tuning& tuning : results.tunings) {
    for (const auto& [rate, loss] : tuning.losses) rates.insert(rate);
  }
  std::vector<std::string> at_edge;
  Table table;
  table.columns = {{"method", false}};
  for (const double rate : rates) table.columns.push_back({short_number(rate)});
  for (const Tuning& tuning : results.tunings) {
    const auto chosen = chosen_loss(tuning);
    std::vector<TableCell> cells{text_cell(tuning.title)};
    for (const double rate : rates) {
      const auto found = std::find_if(tuning.losses.begin(), tuning.losses.end(),
                                      [rate](const auto& entry) { return entry.first == rate; });
      if (found == tuning.losses.end()) {
        cells.push_back(text_cell(kMissing));
        continue;
      }
      cells.push_back(text_cell(std::isfinite(found->second) ? io::fixed(found->second, 4) : "diverged"));
      if (chosen && static_cast<std::ptrdiff_t>(*chosen) == found - tuning.losses.begin()) {
        cells.back().mark = Mark::best;
        if (is_at_edge(tuning)) cells.back().detail = "at the edge";
      }
    }
    if (is_at_edge(tuning)) at_edge.push_back(tuning.title);
    table.lines.push_back(std::move(cells));
  }
  table.note = "Validation loss for each learning rate; bold: chosen.";
  if (!at_edge.empty()) {
    table.note +=
        " At the edge: the smallest or largest rate tried is the chosen one, a better one may lie beyond it (" +
        io::joined(at_edge) + ").";
  }
  return table;
}

}  // namespace moelora::experiment
