#include "nn/stages.h"

#include <ATen/Parallel.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <utility>

namespace moelora::nn {
namespace {

// A thread takes what is left, divided by so many times the threads: pieces that get smaller, so that the first are
// long streams through memory and the last end together.
constexpr std::int64_t kShares = 2;

// Says to the processor that a loop is waiting.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// Where the threads of a team wait for each other.
class Stages::Meeting {
 public:
  explicit Meeting(int threads) : threads_(threads) {}

  int threads() const { return threads_; }

  // Returns when all threads are here and the last one has done `at_last`.
  template <typename AtLast>
  void wait(const AtLast& at_last) {
    const auto meeting = meetings_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      at_last();
      arrived_.store(0, std::memory_order_relaxed);
      {
        // Not std::atomic's own wait and notify: with g++ 12 a thread was seen to sleep on a value that had changed.
        const std::lock_guard lock(mutex_);
        meetings_.store(meeting + 1, std::memory_order_release);
      }
      changed_.notify_all();
      return;
    }
    // Some ten microseconds; who waits longer has lost its core to another program, or the others have.
    for (int i = 0; i < kSpins; ++i) {
      if (meetings_.load(std::memory_order_acquire) != meeting) {
        return;
      }
      pause();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return meetings_.load(std::memory_order_relaxed) != meeting; });
  }

 private:
  static constexpr int kSpins = 1000;
  const int threads_;
  // Apart from each other and from all else: who spins on one must not slow who writes beside it.
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> meetings_{0};
  alignas(64) std::mutex mutex_;
  std::condition_variable changed_;
};

std::int64_t Stages::threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

void Stages::add(std::int64_t count, std::int64_t least, Loop loop) {
  TORCH_INTERNAL_ASSERT(count >= 0 && least >= 1);
  if (count > 0) {
    stages_.emplace_back(count, least, std::move(loop));
  }
}

void Stages::run_part(const Stage& stage, std::int64_t begin, std::int64_t end) noexcept {
  if (failed_.load(std::memory_order_relaxed)) {
    return;
  }
  try {
    stage.loop(begin, end);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = error_ ? error_ : std::current_exception();
    failed_ = true;
  }
}

// From `from` on all short loops, up to the first that is not; returns that one's index.
std::size_t Stages::run_short(std::size_t from) noexcept {
  for (; from < stages_.size() && stages_[from].is_short(); ++from) {
    run_part(stages_[from], 0, stages_[from].count);
  }
  return from;
}

void Stages::work(Meeting& meeting, std::size_t from) noexcept {
  while (from < stages_.size()) {
    Stage& stage = stages_[from];
    std::int64_t begin = stage.next.load(std::memory_order_relaxed);
    while (begin < stage.count) {
      const auto share = (stage.count - begin) / (kShares * meeting.threads());
      const auto end = std::min(stage.count, begin + std::max(stage.least, share));
      if (stage.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) {
        run_part(stage, begin, end);
        begin = stage.next.load(std::memory_order_relaxed);
      }
    }
    if (++from < stages_.size()) {  // behind the last one the parallel region ends
      meeting.wait([&] { run_short(from); });
    }
    while (from < stages_.size() && stages_[from].is_short()) {
      ++from;
    }
  }
}

void Stages::run() {
  const std::size_t first = run_short(0);
  const auto threads = static_cast<int>(Stages::threads());
#if defined(_OPENMP)
  if (threads > 1 && first < stages_.size()) {
    std::unique_ptr<Meeting> meeting;
#pragma omp parallel num_threads(threads)
    {
      // The team may be smaller than what was asked for.
#pragma omp single
      meeting = std::make_unique<Meeting>(omp_get_num_threads());
      work(*meeting, first);
    }
  } else
#endif
  {
    Meeting alone(1);
    work(alone, first);
  }
  stages_.clear();
  failed_ = false;
  if (error_) {
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

}  // namespace moelora::nn
