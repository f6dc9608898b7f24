#include "moelora/experiment/schedule.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "experiment/grid/grid_progress.h"
#include "moelora/io/error.h"
#include "moelora/log/log.h"

namespace moelora::experiment {
namespace {

constexpr int kCellStopped = 130;               // the cell's program was asked to stop and did
constexpr int kEndedBySigterm = 128 + SIGTERM;  // the same, before it listened

class Children {
 public:
  Children(const std::filesystem::path& output, const ScheduleOptions& options) : output_(output), options_(options) {}
  ~Children() {
    for (const auto& [pid, cell] : running_) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
  }
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;

  std::size_t count() const { return running_.size(); }
  bool any_alone() const {
    return std::any_of(running_.begin(), running_.end(), [](const auto& entry) { return entry.second->alone(); });
  }
  std::vector<const Cell*> cells() const {
    std::vector<const Cell*> all;
    for (const auto& [pid, cell] : running_) {
      all.push_back(cell);
    }
    return all;
  }

  void start(const Cell& cell) {
    const std::filesystem::path folder = cell_folder(output_, cell.id);
    std::filesystem::create_directories(folder);
    const std::string log = (folder / "log.txt").string();
    std::vector<std::string> words = options_.command(cell);
    std::vector<char*> arguments;
    for (std::string& word : words) {
      arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    std::error_code ignored;
    std::filesystem::remove(log, ignored);  // of an earlier session
    const pid_t parent = getpid();
    const pid_t child = fork();
    MOELORA_CHECK(child >= 0, "a process for ", cell.id, " could not be started: ", std::strerror(errno));
    if (child == 0) {
      // Only calls that are safe after fork. A cell never outlives whoever counts on its folder being free.
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) {
        _exit(1);
      }
      signal(SIGINT, SIG_DFL);
      signal(SIGTERM, SIG_DFL);
      setpgid(0, 0);  // Ctrl-C reaches the schedule, which asks its cells itself
      const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
      if (file >= 0) {
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
      }
      execv(arguments[0], arguments.data());
      _exit(127);
    }
    running_[child] = &cell;
  }

  void ask_to_stop() const {
    for (const auto& [pid, cell] : running_) {
      kill(pid, SIGTERM);
    }
  }

  /// The cells that ended since, with their exit codes (128 + signal).
  std::vector<std::pair<const Cell*, int>> ended() {
    std::vector<std::pair<const Cell*, int>> all;
    for (auto entry = running_.begin(); entry != running_.end();) {
      int status = 0;
      if (waitpid(entry->first, &status, WNOHANG) == entry->first) {
        all.emplace_back(entry->second, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        entry = running_.erase(entry);
      } else {
        ++entry;
      }
    }
    return all;
  }

 private:
  const std::filesystem::path& output_;
  const ScheduleOptions& options_;
  std::map<pid_t, const Cell*> running_;
};

std::string last_line(const std::filesystem::path& log) {
  std::ifstream stream(log);
  std::string line, last;
  while (std::getline(stream, line)) {
    last = line.empty() ? last : line;
  }
  return last;
}

std::string how_it_ended(int code, const std::filesystem::path& log) {
  if (code > 128) {
    return std::string("was ended by signal ") + strsignal(code - 128) +
           (code == 128 + SIGKILL ? " (by hand, or because memory ran out)" : "");
  }
  return detail::concat("failed (exit code ", code, "): ", last_line(log));
}

}  // namespace

ScheduleResult run_cells(const std::vector<Cell>& cells, const std::filesystem::path& output,
                         const ScheduleOptions& options) {
  std::set<std::string> finished, failed;
  std::vector<const Cell*> waiting;
  for (const Cell& cell : cells) {
    if (is_finished(output, cell)) {
      finished.insert(cell.id);
    } else {
      waiting.push_back(&cell);
    }
  }
  ScheduleResult result;
  Children children(output, options);
  GridProgress progress(cells, output, options.jobs, options.quiet);
  const auto has_failed_need = [&](const Cell& cell) {
    return std::any_of(cell.needs.begin(), cell.needs.end(), [&](const auto& id) { return failed.contains(id); });
  };
  const auto is_ready = [&](const Cell& cell) {
    const bool needs_met =
        std::all_of(cell.needs.begin(), cell.needs.end(), [&](const auto& id) { return finished.contains(id); });
    const bool room = cell.alone()
                          ? children.count() == 0
                          : static_cast<std::int64_t>(children.count()) < options.jobs && !children.any_alone();
    return needs_met && room;
  };
  bool asked = false;
  while (true) {
    for (const auto& [cell, code] : children.ended()) {
      if (code == 0 && is_finished(output, *cell)) {
        finished.insert(cell->id);
        ++result.ran;
        progress.finished(*cell);
      } else if (!(asked && (code == kCellStopped || code == kEndedBySigterm))) {
        failed.insert(cell->id);
        progress.clear();
        log::error(cell->id + " " + how_it_ended(code, cell_folder(output, cell->id) / "log.txt"));
      }
    }
    const bool stop = options.stop != nullptr && options.stop->load();
    if (stop && !asked) {
      asked = true;
      progress.clear();
      log::info(
          "stopping: running cells end after their step, or what they compute at present; once more ends all at once");
      children.ask_to_stop();
    }
    for (auto place = waiting.begin(); !stop && place != waiting.end();) {
      const Cell& cell = **place;
      if (has_failed_need(cell)) {
        failed.insert(cell.id);
        result.blocked.push_back(cell.id);
        place = waiting.erase(place);
      } else if (is_ready(cell)) {
        children.start(cell);
        place = waiting.erase(place);
      } else {
        ++place;
      }
    }
    if (children.count() == 0 && (stop || waiting.empty())) {
      break;
    }
    // Cells that can't be run because of what is missing in the plan itself would be waited for without end.
    MOELORA_CHECK(children.count() > 0 || stop || waiting.empty() ||
                      std::any_of(waiting.begin(), waiting.end(), [&](const Cell* cell) { return is_ready(*cell); }),
                  waiting.front()->id, " needs a cell that is not part of the experiment");
    progress.show(children.cells());
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  progress.clear();
  result.finished = static_cast<std::int64_t>(finished.size());
  result.stopped = options.stop != nullptr && options.stop->load();
  for (const std::string& id : failed) {
    if (std::find(result.blocked.begin(), result.blocked.end(), id) == result.blocked.end()) {
      result.failed.push_back(id);
    }
  }
  return result;
}

}  // namespace moelora::experiment
