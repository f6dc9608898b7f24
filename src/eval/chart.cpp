// Line charts as SVG.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "moelora/eval/page.h"
#include "moelora/io/readable.h"

namespace moelora::eval::page {
namespace {

// More points than pixels only make the page large.
constexpr std::size_t kMostPoints = 600;

struct PlotRange {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool is_empty() const { return low > high; }
  double share(double value) const { return high > low ? (value - low) / (high - low) : 0.5; }
};

std::string plain_number(double value) { return io::significant(value, 6); }

std::string pixel(double value) { return io::fixed(value, 1); }

std::vector<LossPoint> finite_points(const std::vector<LossPoint>& points) {
  std::vector<LossPoint> kept;
  std::copy_if(points.begin(), points.end(), std::back_inserter(kept),
               [](const LossPoint& point) { return std::isfinite(point.loss); });
  return kept;
}

// Means of equal runs of points, the last point kept.
std::vector<LossPoint> thinned(const std::vector<LossPoint>& points) {
  const std::size_t run = (points.size() + kMostPoints - 1) / kMostPoints;
  if (run <= 1) return points;
  std::vector<LossPoint> kept;
  for (std::size_t start = 0; start < points.size(); start += run) {
    const std::size_t end = std::min(start + run, points.size());
    double sum = 0;
    for (std::size_t i = start; i < end; ++i) sum += points[i].loss / static_cast<double>(end - start);
    kept.push_back({points[end - 1].step, sum});
  }
  return kept;
}

}  // namespace

double grid_step(double span, int lines) {
  const double rough = span / lines;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough) return factor * power;
  }
  return 10 * power;
}

std::vector<LossPoint> smoothed(const std::vector<LossPoint>& points) {
  std::vector<LossPoint> result = finite_points(points);
  const double keep = 1.0 - 1.0 / std::max(1.0, static_cast<double>(result.size()) / 50.0);
  // Divided by its own weight, so that the first points are not pulled towards zero.
  double mean = 0;
  double weight = 0;
  for (LossPoint& point : result) {
    mean = keep * mean + (1 - keep) * point.loss;
    weight = keep * weight + (1 - keep);
    point.loss = mean / weight;
  }
  return result;
}

std::string line_chart(const std::vector<Series>& series, ChartSize size) {
  std::vector<Series> drawn;
  PlotRange steps;
  PlotRange losses;
  for (const Series& each : series) {
    drawn.push_back(each);
    drawn.back().points = thinned(finite_points(each.points));
    for (const LossPoint& point : drawn.back().points) {
      steps.include(static_cast<double>(point.step));
      losses.include(point.loss);
    }
  }
  if (steps.is_empty()) return "";
  // Losses start at zero unless all of them are far from it.
  if (losses.low > 0 && losses.low < 0.5 * losses.high) losses.low = 0;
  if (losses.high - losses.low < 1e-12) {
    losses.low -= 0.5;
    losses.high += 0.5;
  }
  constexpr double kLeft = 46;
  constexpr double kRight = 22;
  constexpr double kTop = 8;
  constexpr double kBottom = 22;
  const double bottom = size.height - kBottom;
  const auto x_of = [&](double step) { return kLeft + steps.share(step) * (size.width - kLeft - kRight); };
  const auto y_of = [&](double loss) { return bottom - losses.share(loss) * (bottom - kTop); };

  std::string svg = "<svg viewBox=\"0 0 " + std::to_string(size.width) + " " + std::to_string(size.height) +
                    "\" role=\"img\" aria-label=\"loss over steps\">\n";
  const double loss_step = grid_step(losses.high - losses.low, size.height > 200 ? 5 : 3);
  for (double line = std::ceil(losses.low / loss_step) * loss_step; line <= losses.high + 1e-9 * loss_step;
       line += loss_step) {
    const std::string y = pixel(y_of(line));
    svg += "<line x1=\"" + pixel(kLeft) + "\" x2=\"" + pixel(size.width - kRight) + "\" y1=\"" + y + "\" y2=\"" + y +
           "\" stroke=\"var(--line)\"/><text x=\"" + pixel(kLeft - 6) + "\" y=\"" + pixel(y_of(line) + 4) +
           "\" text-anchor=\"end\">" + plain_number(std::abs(line) < 1e-9 * loss_step ? 0.0 : line) + "</text>\n";
  }
  if (steps.high > steps.low) {
    const double distance = std::max(1.0, grid_step(steps.high - steps.low, size.width > 500 ? 8 : 3));
    for (double step = std::ceil(steps.low / distance) * distance; step <= steps.high; step += distance) {
      svg += "<text x=\"" + pixel(x_of(step)) + "\" y=\"" + pixel(bottom + 16) + "\" text-anchor=\"middle\">" +
             plain_number(step) + "</text>\n";
    }
  }
  std::string legend;
  for (const Series& each : drawn) {
    if (each.points.empty()) continue;
    const std::string color = "var(--c" + std::to_string(each.color) + ")";
    std::string path;
    std::string dots;
    for (const LossPoint& point : each.points) {
      const std::string x = pixel(x_of(static_cast<double>(point.step)));
      const std::string y = pixel(y_of(point.loss));
      path += (path.empty() ? "" : " ") + x + "," + y;
      // One point makes no line.
      if (each.has_dots || each.points.size() == 1) {
        dots += "<circle cx=\"" + x + "\" cy=\"" + y + "\" r=\"3\" fill=\"" + color + "\"/>";
      }
    }
    svg += "<polyline points=\"" + path + "\" fill=\"none\" stroke=\"" + color + "\" stroke-width=\"" +
           (each.is_faint ? "1\" opacity=\"0.3" : "2") + "\" stroke-linejoin=\"round\"/>" + dots + "\n";
    if (!each.name.empty()) {
      legend += "<span><i style=\"background:" + color + (each.is_faint ? ";opacity:.4" : "") + "\"></i>" +
                escape(each.name) + "</span>";
    }
  }
  svg += "</svg>\n";
  return legend.empty() ? svg : "<div class=\"legend\">" + legend + "</div>\n" + svg;
}

}  // namespace moelora::eval::page
