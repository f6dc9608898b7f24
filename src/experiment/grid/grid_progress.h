#pragma once
// One view over the whole grid: how many cells are done, what runs and how far it is, how long the rest will take.

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "moelora/experiment/grid.h"

namespace moelora::experiment {

class GridProgress {
 public:
  /// On a terminal one line that is rewritten, elsewhere a line every half a minute and one for each finished cell.
  GridProgress(const std::vector<Cell>& cells, const std::filesystem::path& output, std::int64_t jobs, bool quiet);
  void finished(const Cell& cell);
  void show(const std::vector<const Cell*>& running);
  void clear();  ///< Takes the rewritten line away, before something else is printed.

 private:
  using Clock = std::chrono::steady_clock;
  std::string eta(const std::vector<const Cell*>& running) const;
  double seconds_per_work() const;

  const std::vector<Cell>& cells_;
  const std::filesystem::path& output_;
  std::int64_t jobs_;
  bool quiet_;
  bool terminal_;
  bool line_shown_ = false;
  std::int64_t done_ = 0;
  double work_done_ = 0.0;     // of cells whose time is known
  double seconds_done_ = 0.0;  // their time, one after another
  double work_left_ = 0.0;     // running ones included
  Clock::time_point shown_{};
};

}  // namespace moelora::experiment
