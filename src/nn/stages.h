#pragma once
// Loops that follow from each other, run by one team of threads that stays together from the first to the last. Between
// two of them the threads wait for each other at a barrier, which takes less than a microsecond where each has a core
// of its own; a parallel region for each loop leaves all threads but one waiting for whatever is done in between.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <utility>

namespace moelora::nn {

class Stages {
 public:
  /// Computes [begin, end). Runs in several threads, none of which may use LibTorch's own parallel loops.
  using Loop = std::function<void(std::int64_t begin, std::int64_t end)>;

  /// Adds a loop over [0, count), behind all that were added so far. Threads take parts of it as they get to them, the
  /// later the smaller, but at least `least`: half of it each would leave the faster one waiting, and memory is rarely
  /// as fast for both. A loop of no more than `least` is run by the thread that is the last to finish the loop before.
  void add(std::int64_t count, std::int64_t least, Loop loop);

  /// Runs all of them, in order, by as many threads as LibTorch's loops would use; inside one of those by the calling
  /// thread. What a loop throws is thrown here, in place of the loops behind it. Afterwards there are no loops.
  void run();

 private:
  struct Stage {
    Stage(std::int64_t of_count, std::int64_t of_least, Loop of_loop)
        : count(of_count), least(of_least), loop(std::move(of_loop)) {}
    bool is_short() const { return count <= least; }
    const std::int64_t count;
    const std::int64_t least;
    const Loop loop;
    std::atomic<std::int64_t> next{0};  // the first index that no thread has taken
  };
  class Barrier;

  void run_part(const Stage& stage, std::int64_t begin, std::int64_t end) noexcept;
  void run_whole(std::size_t from, std::size_t to) noexcept;
  std::size_t next_long(std::size_t from) const;
  void run_in_team(Barrier& barrier, std::size_t from) noexcept;

  std::deque<Stage> stages_;
  std::atomic<bool> failed_{false};
  std::mutex mutex_;  // of error_
  std::exception_ptr error_;
};

}  // namespace moelora::nn
