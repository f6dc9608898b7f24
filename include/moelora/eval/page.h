#pragma once
// Pieces of a report page: HTML and SVG as text.

#include <string>
#include <string_view>
#include <vector>

#include "moelora/eval/report.h"

namespace moelora::eval::page {

struct ScoreColumn {
  std::string name;
  const Scores* scores = nullptr;
  int color = 0;  ///< 0 … 3: colours of the style sheet
};

/// Escaped for HTML text and attributes, invalid UTF-8 replaced.
std::string escape(std::string_view text);

/// The whole document around `body`; `style` is added to the style sheet.
std::string document(const std::string& title, const Facts& facts, const std::string& body,
                     std::string_view style = {});
std::string section(const std::string& heading, const std::string& body);

/// One row per task with a number per column and a bar per number; the last row is the average.
std::string score_table(const std::vector<ScoreColumn>& columns);

struct Series {
  std::string name;
  std::vector<LossPoint> points;
  int color = 0;          ///< 0 … 3: colours of the style sheet
  bool is_faint = false;  ///< background of another series
  bool has_dots = false;  ///< few points, each shown
};
struct ChartSize {
  int width = 0;
  int height = 0;
};
/// Lines over steps with axes; empty text when no series has a finite point.
std::string line_chart(const std::vector<Series>& series, ChartSize size);

/// Round distance between about `lines` grid lines: 1, 2 or 5 times a power of ten.
double grid_step(double span, int lines);

/// Exponential moving average over about a fiftieth of the points.
std::vector<LossPoint> smoothed(const std::vector<LossPoint>& points);

/// Experts' weights, one row per task, shaded by weight.
std::string weight_table(const std::vector<std::string>& tasks, const std::vector<std::vector<double>>& weights);

/// Up to `count` answers of each task beside their references, folded.
std::string examples(const std::vector<data::Record>& references, const std::vector<data::Record>& predictions,
                     std::size_t count);

}  // namespace moelora::eval::page
