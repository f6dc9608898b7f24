#include "experiment/report/table.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "moelora/eval/page.h"
#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

namespace page = eval::page;

std::int64_t tenths_of_percent(double share) { return std::llround(share * 1000); }

std::string html_cell(const TableCell& cell, const Column& column) {
  std::string text = page::escape(cell.text);
  if (cell.mark == Mark::best || cell.is_strong) text = "<b>" + text + "</b>";
  if (cell.mark == Mark::second) text = "<u>" + text + "</u>";
  if (!cell.detail.empty()) text += "<small>" + page::escape(cell.detail) + "</small>";
  std::string style;
  if (cell.shade != 0) {
    const double strength = std::min(std::abs(cell.shade), 1.0) * 45;
    style = std::string(" style=\"background:color-mix(in srgb,var(--c") + (cell.shade > 0 ? "3" : "1") + ") " +
            io::fixed(strength, 0) + "%,transparent)\"";
  }
  return std::string("<td") + (column.is_number ? " class=\"n\"" : "") + style + ">" + text + "</td>";
}

std::string html_head(const Column& column) {
  if (column.is_task) return "<th class=\"up\"><span>" + page::escape(column.title) + "</span></th>";
  return std::string("<th") + (column.is_number ? " class=\"n\"" : "") + ">" + page::escape(column.title) + "</th>";
}

std::string note_of(const Table& table, const char* second_best) {
  const auto is_second = [](const TableCell& cell) { return cell.mark == Mark::second; };
  const bool has_second = std::any_of(table.lines.begin(), table.lines.end(),
                                      [&](const auto& row) { return std::any_of(row.begin(), row.end(), is_second); });
  if (!has_second) return table.note;
  return table.note + (table.note.empty() ? "" : " ") + second_best;
}

std::string markdown_cell(const TableCell& cell, const Column& column) {
  std::string text = markdown_escaped(cell.text);
  if (!text.empty() && (cell.mark == Mark::best || cell.is_strong)) text = "**" + text + "**";
  if (!text.empty() && cell.mark == Mark::second) text = "*" + text + "*";
  if (!cell.detail.empty() && !column.is_task) text += " (" + markdown_escaped(cell.detail) + ")";
  return text;
}

}  // namespace

Table summary_of(const Table& table, std::size_t count) {
  Table summary = table;
  summary.columns.resize(std::min(count, summary.columns.size()));
  for (auto& row : summary.lines) row.resize(summary.columns.size());
  return summary;
}

Table rest_of(const Table& table, std::size_t count) {
  Table rest = table;
  const auto leave_out = [count](auto& cells) {
    const auto end = static_cast<std::ptrdiff_t>(std::min(count, cells.size()));
    if (end > 1) cells.erase(cells.begin() + 1, cells.begin() + end);
  };
  leave_out(rest.columns);
  for (auto& row : rest.lines) leave_out(row);
  rest.note.clear();
  return rest;
}

std::string to_html(const Table& table) {
  if (table.lines.empty()) return "";
  const bool has_tasks =
      std::any_of(table.columns.begin(), table.columns.end(), [](const Column& column) { return column.is_task; });
  std::string html =
      std::string("<div class=\"scroll\"><table class=\"dense") + (has_tasks ? "" : " fit") + "\">\n<tr>";
  for (const Column& column : table.columns) html += html_head(column);
  html += "</tr>\n";
  for (const auto& row : table.lines) {
    html += "<tr>";
    for (std::size_t i = 0; i < row.size(); ++i) html += html_cell(row[i], table.columns[i]);
    html += "</tr>\n";
  }
  html += "</table></div>\n";
  const std::string note = note_of(table, "Underlined: second best.");
  return note.empty() ? html : html + "<p class=\"note\">" + page::escape(note) + "</p>\n";
}

std::string to_markdown(const Table& table) {
  if (table.lines.empty()) return "";
  std::string head = "|";
  std::string line = "|";
  for (const Column& column : table.columns) {
    head += " " + markdown_escaped(column.title) + " |";
    line += column.is_number ? " ---: |" : " --- |";
  }
  std::string text = head + "\n" + line + "\n";
  for (const auto& row : table.lines) {
    text += "|";
    for (std::size_t i = 0; i < row.size(); ++i) text += " " + markdown_cell(row[i], table.columns[i]) + " |";
    text += "\n";
  }
  const std::string note = note_of(table, "In italics: second best.");
  return note.empty() ? text : text + "\n" + markdown_escaped(note) + "\n";
}

std::string markdown_escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '\\':
      case '`':
      case '*':
      case '_':
      case '[':
      case ']':
      case '|':
      case '~':
        escaped += '\\';
        escaped += c;
        break;
      default:
        escaped += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return escaped;
}

std::vector<Mark> marks_of(const std::vector<std::optional<double>>& values) {
  std::set<std::int64_t, std::greater<>> displayed;
  std::int64_t count = 0;
  for (const auto& value : values) {
    if (!value) continue;
    displayed.insert(tenths_of_percent(*value));
    ++count;
  }
  std::vector<Mark> marks(values.size(), Mark::none);
  if (count < 2) return marks;
  const auto best = displayed.begin();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!values[i]) continue;
    const std::int64_t value = tenths_of_percent(*values[i]);
    if (value == *best) marks[i] = Mark::best;
    if (displayed.size() > 1 && value == *std::next(best)) marks[i] = Mark::second;
  }
  return marks;
}

int sign_as_displayed(double share) {
  const std::int64_t tenths = tenths_of_percent(share);
  return tenths > 0 ? 1 : tenths < 0 ? -1 : 0;
}

std::string percent(double share) { return io::fixed(static_cast<double>(tenths_of_percent(share)) / 10, 1); }

std::string signed_percent(double share) {
  const std::int64_t tenths = tenths_of_percent(share);
  const std::string digits = io::fixed(static_cast<double>(std::abs(tenths)) / 10, 1);
  return (tenths > 0 ? "+" : tenths < 0 ? "−" : "") + digits;
}

std::string percent_range(double low, double high) { return percent(low) + "–" + percent(high); }

std::string whole_percent_range(double low, double high) {
  return io::fixed(low * 100, 0) + "–" + io::fixed(high * 100, 0);
}

std::string signed_range(double low, double high) { return signed_percent(low) + " to " + signed_percent(high); }

std::string short_number(double value) { return io::significant(value, 3); }

std::string memory_size(double bytes) {
  constexpr double kMebibyte = 1 << 20;
  if (bytes < 1024 * kMebibyte) return io::fixed(bytes / kMebibyte, 0) + " MiB";
  return io::fixed(bytes / kMebibyte / 1024, 2) + " GiB";
}

}  // namespace moelora::experiment
