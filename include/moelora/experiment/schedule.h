#pragma once
// Running the cells: each in a process of its own, so that its memory is its own and a crash costs one cell; several at
// one time; those that measure times alone. What is finished is never repeated.

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "moelora/experiment/grid.h"

namespace moelora::experiment {

struct ScheduleOptions {
  std::int64_t jobs = 1;
  /// The program and arguments that run one cell; its output goes to the cell's log.txt.
  std::function<std::vector<std::string>(const Cell&)> command;
  const std::atomic<bool>* stop = nullptr;  ///< Set: running cells are asked to stop with a checkpoint.
  bool quiet = false;                       ///< No progress on stderr.
};

struct ScheduleResult {
  std::int64_t finished = 0;         ///< of all cells, earlier sessions included
  std::int64_t ran = 0;              ///< in this session
  std::vector<std::string> failed;   ///< ids
  std::vector<std::string> blocked;  ///< ids of cells that need a failed one
  bool stopped = false;
};

ScheduleResult run_cells(const std::vector<Cell>& cells, const std::filesystem::path& output,
                         const ScheduleOptions& options);

}  // namespace moelora::experiment
