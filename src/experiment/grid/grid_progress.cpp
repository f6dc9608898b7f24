#include "experiment/grid/grid_progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "moelora/io/readable.h"

namespace moelora::experiment {
namespace {

struct Status {
  std::int64_t done = 0;
  std::int64_t total = 0;
  std::string what;
  double share() const { return total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0; }
};

Status status_of(const std::filesystem::path& output, const Cell& cell) {
  Status status;
  std::ifstream stream(cell_folder(output, cell.id) / "status");
  if (stream >> status.done >> status.total) {
    std::getline(stream >> std::ws, status.what);
  }
  return status;
}

// A cell's share that is done: training is most of it, answering comes after.
double part_done(const Status& status) {
  if (status.what == "answering") {
    return 0.67 + 0.33 * status.share();
  }
  return 0.67 * status.share();
}

std::size_t terminal_width() {
  struct winsize size {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col : 120;
}

}  // namespace

GridProgress::GridProgress(const std::vector<Cell>& cells, const std::filesystem::path& output, std::int64_t jobs,
                           bool quiet)
    : cells_(cells), output_(output), jobs_(jobs), quiet_(quiet), terminal_(isatty(STDERR_FILENO) != 0) {
  for (const Cell& cell : cells_) {
    if (!is_finished(output_, cell)) {
      work_left_ += cell.work;
      continue;
    }
    ++done_;
    const auto seconds = read_result(output_, cell.id).value("seconds", 0.0);
    work_done_ += cell.work;
    seconds_done_ += seconds;
  }
}

void GridProgress::finished(const Cell& cell) {
  ++done_;
  const double seconds = read_result(output_, cell.id).value("seconds", 0.0);
  work_left_ -= cell.work;
  work_done_ += cell.work;
  seconds_done_ += seconds;
  if (!quiet_) {
    clear();
    std::fprintf(stderr, "%lld/%zu %s in %s\n", static_cast<long long>(done_), cells_.size(), cell.id.c_str(),
                 io::duration_text(seconds).c_str());
  }
}

double GridProgress::seconds_per_work() const { return work_done_ > 0.0 ? seconds_done_ / work_done_ : 0.0; }

std::string GridProgress::eta(const std::vector<const Cell*>& running) const {
  if (work_done_ <= 0.0) {
    return "ETA after the first cell";
  }
  double left = work_left_;
  for (const Cell* cell : running) {
    left -= cell->work * part_done(status_of(output_, *cell));
  }
  return "ETA " + io::duration_text(std::max(0.0, left) * seconds_per_work() / static_cast<double>(jobs_));
}

void GridProgress::show(const std::vector<const Cell*>& running) {
  const auto now = Clock::now();
  if (quiet_ || running.empty() ||
      now - shown_ < (terminal_ ? std::chrono::milliseconds(500) : std::chrono::milliseconds(30000))) {
    return;
  }
  shown_ = now;
  std::string line = std::to_string(done_) + "/" + std::to_string(cells_.size()) + " cells, " + eta(running);
  for (const Cell* cell : running) {
    const Status status = status_of(output_, *cell);
    line += " | " + cell->id;
    if (!status.what.empty()) {
      line += " " + status.what + " " + std::to_string(status.done) + "/" + std::to_string(status.total);
    }
  }
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
    return;
  }
  line.resize(std::min(line.size(), terminal_width() - 1));
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  line_shown_ = true;
}

void GridProgress::clear() {
  if (line_shown_) {
    std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
    line_shown_ = false;
  }
}

}  // namespace moelora::experiment
