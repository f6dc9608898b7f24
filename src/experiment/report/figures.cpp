#include "experiment/report/figures.h"

#include <algorithm>
#include <cmath>

#include "experiment/report/table.h"
#include "moelora/eval/page.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

namespace page = eval::page;

constexpr double kWidth = 400;
constexpr double kHeight = 250;
constexpr double kLeft = 44;
constexpr double kRight = 24;
constexpr double kTop = 22;
constexpr double kBottom = 26;

std::string at(double coordinate) { return io::fixed(coordinate, 1); }

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" text-anchor=\"" + anchor + "\">" + page::escape(text) +
         "</text>";
}

std::string line_between(double x1, double y1, double x2, double y2, const std::string& stroke) {
  return "<line x1=\"" + at(x1) + "\" y1=\"" + at(y1) + "\" x2=\"" + at(x2) + "\" y2=\"" + at(y2) + "\" stroke=\"" +
         stroke + "\"/>";
}

struct SweptPoint {
  std::int64_t value = 0;
  double place = 0;  // on the axis, 0 … 1
  eval::Interval score;
  bool is_reference = false;
};

// Every value has its tick, also one without a run.
std::vector<double> places_of(const std::vector<std::int64_t>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const bool is_logarithmic = *low > 0 && *high >= 4 * *low;
  const auto scaled = [&](std::int64_t v) {
    return is_logarithmic ? std::log2(static_cast<double>(v)) : static_cast<double>(v);
  };
  const double span = scaled(*high) - scaled(*low);
  std::vector<double> places;
  for (const std::int64_t value : values) places.push_back(span > 0 ? (scaled(value) - scaled(*low)) / span : 0.5);
  return places;
}

struct PercentAxis {
  double low = 0;
  double high = 0;

  explicit PercentAxis(const std::vector<SweptPoint>& points) {
    low = points.front().score.low;
    high = points.front().score.high;
    for (const SweptPoint& point : points) {
      low = std::min({low, point.score.low, point.score.value});
      high = std::max({high, point.score.high, point.score.value});
    }
    const double margin = std::max(0.1 * (high - low), 0.005);
    low = 100 * std::max(0.0, low - margin);
    high = 100 * std::min(1.0, high + margin);
  }
  double y_of(double score) const {
    return kHeight - kBottom - (100 * score - low) / (high - low) * (kHeight - kBottom - kTop);
  }
};

double x_of(const SweptPoint& point) { return kLeft + 12 + point.place * (kWidth - kLeft - kRight - 12); }

std::string grid_lines(const PercentAxis& axis) {
  std::string svg;
  const double step = page::grid_step(axis.high - axis.low, 5);
  const int decimals = step < 1 ? 1 : 0;
  for (double line = std::ceil(axis.low / step) * step; line <= axis.high + 1e-9 * step; line += step) {
    const double y = axis.y_of(line / 100);
    svg += line_between(kLeft, y, kWidth - kRight + 12, y, "var(--line)") +
           text_at(kLeft - 6, y + 4, "end", io::fixed(line, decimals)) + "\n";
  }
  return svg;
}

std::string interval_band(const std::vector<SweptPoint>& points, const PercentAxis& axis) {
  std::string corners;
  for (const SweptPoint& point : points) corners += at(x_of(point)) + "," + at(axis.y_of(point.score.high)) + " ";
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    corners += at(x_of(*point)) + "," + at(axis.y_of(point->score.low)) + " ";
  }
  return "<polygon points=\"" + corners + "\" fill=\"var(--c0)\" opacity=\"0.12\"/>\n";
}

std::string swept_marks(const std::vector<SweptPoint>& points, const PercentAxis& axis) {
  std::string path;
  std::string marks;
  for (const SweptPoint& point : points) {
    const double x = x_of(point);
    const double y = axis.y_of(point.score.value);
    path += at(x) + "," + at(y) + " ";
    if (point.is_reference) {
      marks += "<circle cx=\"" + at(x) + "\" cy=\"" + at(y) + "\" r=\"7\" fill=\"none\" stroke=\"var(--c1)\"/>";
    }
    marks += line_between(x, axis.y_of(point.score.low), x, axis.y_of(point.score.high), "var(--c0)") +
             "<circle cx=\"" + at(x) + "\" cy=\"" + at(y) + "\" r=\"3.5\" fill=\"var(--c0)\"/>" +
             "<text class=\"value\" x=\"" + at(x) + "\" y=\"" + at(y - (point.is_reference ? 12 : 9)) +
             "\" text-anchor=\"middle\">" + percent(point.score.value) + "</text>" + "\n";
  }
  return "<polyline points=\"" + path + "\" fill=\"none\" stroke=\"var(--c0)\" stroke-width=\"2\"/>\n" + marks;
}

struct Bar {
  std::string label;  // behind the bar
  double value = 0;
  int color = 0;
};
struct BarRow {
  std::string title;
  std::vector<Bar> bars;
};

std::string bar_rows(const std::vector<BarRow>& rows) {
  double largest = 0;
  for (const BarRow& row : rows) {
    for (const Bar& bar : row.bars) largest = std::max(largest, bar.value);
  }
  if (largest <= 0) return "";
  std::string html = "<div class=\"barlist\">\n";
  for (const BarRow& row : rows) {
    html += "<div>" + page::escape(row.title) + "</div><div>";
    if (row.bars.empty()) html += "<div class=\"barline\"><small>" + kMissing + "</small></div>";
    for (const Bar& bar : row.bars) {
      html += "<div class=\"barline\">";
      if (bar.value > 0) {
        // The longest bar leaves room for its label.
        html += "<i style=\"width:calc((100% - 80px)*" + io::fixed(std::max(bar.value / largest, 0.004), 4) +
                ");background:var(--c" + std::to_string(bar.color) + ")\"></i>";
      }
      html += "<small>" + page::escape(bar.label) + "</small></div>";
    }
    html += "</div>\n";
  }
  return html + "</div>\n";
}

bool is_positive(const std::optional<double>& value) { return value && std::isfinite(*value) && *value > 0; }

}  // namespace

std::string sweep_chart(const Results& results, const Analysis& analysis, const std::string& parameter) {
  std::vector<std::int64_t> values;
  const std::vector<std::size_t> of_parameter = points_of(results, parameter);
  for (const std::size_t i : of_parameter) values.push_back(results.sweeps[i].value);
  if (values.empty()) return "";
  const std::vector<double> places = places_of(values);
  std::vector<SweptPoint> points;
  std::vector<std::string> references;
  std::string ticks;
  for (std::size_t i = 0; i < of_parameter.size(); ++i) {
    SweptPoint point{values[i], places[i], {}, results.sweeps[of_parameter[i]].reference};
    ticks += text_at(x_of(point), kHeight - 9, "middle", std::to_string(point.value));
    const auto score = analysis.bootstrap.average(results.methods.size() + of_parameter[i]);
    if (!score) continue;
    point.score = *score;
    points.push_back(point);
    if (point.is_reference) references.push_back(std::to_string(point.value));
  }
  if (points.empty()) return "";
  std::string caption;
  if (!references.empty()) {
    caption = "<p class=\"note\">Ringed: the common setting, " + page::escape(parameter) + " " +
              io::joined(references) + ", from the table of scores.</p>\n";
  }
  const PercentAxis axis(points);
  return "<svg viewBox=\"0 0 " + io::fixed(kWidth, 0) + " " + io::fixed(kHeight, 0) +
         "\" role=\"img\" aria-label=\"average score against " + page::escape(parameter) + "\">\n" + grid_lines(axis) +
         ticks + interval_band(points, axis) + swept_marks(points, axis) + "</svg>\n" + caption;
}

std::string share_bars(const Results& results) {
  std::vector<BarRow> rows;
  for (const MethodResults& row : results.methods) {
    rows.push_back({row.title, {}});
    const auto share = share_of_base(results, row.trained_parameters);
    if (share) rows.back().bars.push_back({short_number(*share * 100) + " %", *share, 0});
  }
  return bar_rows(rows);
}

std::string latency_bars(const Results& results) {
  std::vector<BarRow> rows;
  for (const MethodResults& row : results.methods) {
    rows.push_back({row.title, {}});
    std::vector<Bar>& bars = rows.back().bars;
    if (is_positive(row.ms_per_token)) bars.push_back({io::fixed(*row.ms_per_token, 2) + " ms", *row.ms_per_token, 0});
    if (!row.not_merged.empty()) {
      bars.push_back({"not merged: " + row.not_merged, 0, 3});
    } else if (is_positive(row.ms_per_token_merged)) {
      bars.push_back({io::fixed(*row.ms_per_token_merged, 2) + " ms", *row.ms_per_token_merged, 3});
    }
  }
  const std::string bars = bar_rows(rows);
  if (bars.empty()) return "";
  return "<div class=\"legend\"><span><i style=\"background:var(--c0)\"></i>adapter attached</span><span><i "
         "style=\"background:var(--c3)\"></i>merged</span></div>\n" +
         bars;
}

}  // namespace moelora::experiment
