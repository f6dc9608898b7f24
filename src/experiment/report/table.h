#pragma once
// Tables that are written as HTML and as Markdown, and numbers as readers like them.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::experiment {

enum class Mark { none, best, second };

struct TableCell {
  std::string text;    ///< plain; escaped when written
  std::string detail;  ///< small, below the text; in Markdown behind it in brackets
  Mark mark = Mark::none;
  double shade = 0;        ///< −1 (a loss) … 1 (a gain): background in HTML
  bool is_strong = false;  ///< bold, without being the best
};

struct Column {
  std::string title;
  bool is_number = true;
  bool is_task = false;  ///< Narrow: title upright in HTML, detail in HTML only.
};

struct Table {
  std::vector<Column> columns;
  std::vector<std::vector<TableCell>> lines;
  std::string note;  ///< below the table; a line on what marks the second best follows where one is marked
};

/// The first `count` columns with the note; the first column and those behind the first `count` without it.
Table summary_of(const Table& table, std::size_t count);
Table rest_of(const Table& table, std::size_t count);

std::string to_html(const Table& table);
/// Without HTML.
std::string to_markdown(const Table& table);
/// For text outside tables.
std::string markdown_escaped(std::string_view text);

inline const std::string kMissing = "–";

/// The largest of the values as displayed (percent with one decimal) and the next smaller; equal ones share their mark.
/// No marks unless two values are there.
std::vector<Mark> marks_of(const std::vector<std::optional<double>>& values);

int sign_as_displayed(double share);                       ///< −1, 0, 1: what reads 0.0 is neither gain nor loss
std::string percent(double share);                         ///< 0.7238 → "72.4"
std::string signed_percent(double share);                  ///< "+1.2", "−0.3", "0.0"
std::string percent_range(double low, double high);        ///< "71.0–73.9"
std::string whole_percent_range(double low, double high);  ///< "71–74"
std::string signed_range(double low, double high);         ///< "−0.3 to +2.6"
std::string short_number(double value);                    ///< three digits: "0.0002", "3e-05"
std::string memory_size(double bytes);                     ///< "812 MiB", "12.40 GiB"

}  // namespace moelora::experiment
