#include "nn/stages.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <algorithm>
#include <chrono>
#include <condition_variable>

namespace moelora::nn {
namespace {

// A thread takes what is left, divided by so many times the threads: parts that get smaller, so that the first are long
// streams through memory and the last end together.
constexpr std::int64_t kShares = 2;

// Says to the processor that a loop is waiting.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

// Its members lie apart on purpose.
class Stages::Barrier {  // NOLINT(clang-analyzer-optin.performance.Padding)
 public:
  int threads() const { return threads_; }
  /// Before any thread arrives.
  void set_threads(int threads) { threads_ = threads; }

  /// Returns when all threads are here and the last one has done `at_last`.
  template <typename AtLast>
  void arrive_and_wait(const AtLast& at_last) {
    const auto phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      at_last();
      arrived_.store(0, std::memory_order_relaxed);
      {
        // Not std::atomic's own wait and notify: with g++ 12 a thread was seen to sleep on a value that had changed.
        const std::lock_guard lock(mutex_);
        phase_.store(phase + 1, std::memory_order_release);
      }
      changed_.notify_all();
      return;
    }
    // Who waits longer has lost its core to another program, or the others have.
    const auto until = std::chrono::steady_clock::now() + kSpinning;
    do {
      for (int i = 0; i < 16; ++i) {
        if (phase_.load(std::memory_order_acquire) != phase) {
          return;
        }
        relax();
      }
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return phase_.load(std::memory_order_relaxed) != phase; });
  }

 private:
  static constexpr std::chrono::microseconds kSpinning{50};
  int threads_ = 1;
  // Apart from each other and from all else: who spins on one must not slow who writes beside it.
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
  alignas(64) std::mutex mutex_;
  std::condition_variable changed_;
};

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

// Loops from … to - 1 by the calling thread.
void Stages::run_whole(std::size_t from, std::size_t to) noexcept {
  for (; from < to; ++from) {
    run_part(stages_[from], 0, stages_[from].count);
  }
}

// The first loop from `from` on that is worth several threads.
std::size_t Stages::next_long(std::size_t from) const {
  while (from < stages_.size() && stages_[from].is_short()) {
    ++from;
  }
  return from;
}

// One thread's part; stages_[from] is not short.
void Stages::run_in_team(Barrier& barrier, std::size_t from) noexcept {
  while (from < stages_.size()) {
    Stage& stage = stages_[from];
    std::int64_t begin = stage.next.load(std::memory_order_relaxed);
    while (begin < stage.count) {
      const auto share = (stage.count - begin) / (kShares * barrier.threads());
      const auto end = std::min(stage.count, begin + std::max(stage.least, share));
      if (stage.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) {
        run_part(stage, begin, end);
        begin = stage.next.load(std::memory_order_relaxed);
      }
    }
    const std::size_t next = next_long(from + 1);
    if (from + 1 < stages_.size()) {  // behind the last one the parallel region ends
      barrier.arrive_and_wait([&] { run_whole(from + 1, next); });
    }
    from = next;
  }
}

void Stages::run() {
  const std::size_t first = next_long(0);
  run_whole(0, first);
#if defined(_OPENMP)
  if (first < stages_.size() && !at::in_parallel_region() && at::get_num_threads() > 1) {
    Barrier barrier;
#pragma omp parallel
    {
      // Perhaps fewer than LibTorch asks for.
#pragma omp single
      barrier.set_threads(omp_get_num_threads());
      run_in_team(barrier, first);
    }
  } else
#endif
  {
    run_whole(first, stages_.size());
  }
  stages_.clear();
  failed_ = false;
  if (error_) {
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

}  // namespace moelora::nn
