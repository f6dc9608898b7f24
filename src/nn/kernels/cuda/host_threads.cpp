#include "nn/kernels/cuda/host_threads.h"

#include <c10/util/Exception.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

namespace moelora::nn::kernels {
namespace {

constexpr std::size_t kStackBytes = 64 << 10;
constexpr std::uint32_t kLanes = 32;

// Threads that meet: a block or a warp.
struct Meeting {
  std::uint32_t size = 0;
  std::uint32_t arrived = 0;
  std::uint64_t round = 0;
};

// Where a fiber or the scheduler goes on.
struct Place {
  ucontext_t begin{};
  jmp_buf next{};
  bool begun = false;
};

// It runs one thread of every block that comes.
struct Fiber {
  Place place;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  bool done = false;
};

// The block that this thread of the host runs.
struct Block {
  Place scheduler;
  std::deque<Fiber> fibers;  // which stay where they are
  Meeting all;
  std::vector<Meeting> warps;
  std::vector<std::uint32_t> slots[2];  // values of a shuffle, in turns: a slow reader's are not yet overwritten
  std::vector<std::uint32_t> shuffles;  // of each thread
  bool progress = false;
  void (*body)(const void*) = nullptr;
  const void* parameters = nullptr;
};

thread_local HostThread current;
// A pointer: an object that is made when it is first used would be asked for at every meeting whether it is made.
thread_local Block* running = nullptr;

Block& own_block() {
  thread_local Block block;
  return block;
}

void go_to(Place& from, Place& to) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  swapcontext(&from.begin, &to.begin);  // which sanitizers know
#else
  // swapcontext asks the kernel for the signals' mask each time, and a block changes threads thousands of times.
  from.begun = true;
  if (_setjmp(from.next) == 0) {
    if (to.begun) {
      _longjmp(to.next, 1);
    }
    setcontext(&to.begin);
  }
#endif
}

void fiber_main() {
  for (;;) {
    running->body(running->parameters);
    Fiber& own = running->fibers[current.thread];
    own.done = true;
    running->progress = true;
    go_to(own.place, running->scheduler);
  }
}

void meet(Meeting& meeting) {
  const std::uint64_t round = meeting.round;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.round;
    running->progress = true;
    return;
  }
  while (meeting.round == round) {
    go_to(running->fibers[current.thread].place, running->scheduler);
  }
}

void begin_block(std::uint32_t threads) {
  while (running->fibers.size() < threads) {
    Fiber& fiber = running->fibers.emplace_back();
    getcontext(&fiber.place.begin);
    fiber.place.begin.uc_stack.ss_sp = fiber.stack.get();
    fiber.place.begin.uc_stack.ss_size = kStackBytes;
    fiber.place.begin.uc_link = nullptr;  // it never ends
    makecontext(&fiber.place.begin, fiber_main, 0);
  }
  running->all = {threads, 0, 0};
  running->warps.clear();
  for (std::uint32_t first = 0; first < threads; first += kLanes) {
    running->warps.push_back({std::min(kLanes, threads - first), 0, 0});
  }
  for (auto& slots : running->slots) {
    slots.assign(threads, 0);
  }
  running->shuffles.assign(threads, 0);
  for (std::uint32_t i = 0; i < threads; ++i) {
    running->fibers[i].done = false;
  }
}

void run_block(std::uint32_t threads) {
  begin_block(threads);
  for (std::uint32_t left = threads; left > 0;) {
    running->progress = false;
    left = 0;
    for (std::uint32_t i = 0; i < threads; ++i) {
      if (!running->fibers[i].done) {
        current.thread = i;
        go_to(running->scheduler, running->fibers[i].place);
        left += running->fibers[i].done ? 0 : 1;
      }
    }
    if (!running->progress) {
      running->fibers.clear();  // they stand in the middle of a kernel
      TORCH_INTERNAL_ASSERT(false, "threads of a block wait for others that have returned or wait elsewhere");
    }
  }
}

}  // namespace

HostThread& host_thread() { return current; }

void host_barrier() { meet(running->all); }

std::uint32_t host_shuffle_xor(std::uint32_t bits, int mask) {
  const std::uint32_t thread = current.thread;
  auto& slots = running->slots[running->shuffles[thread]++ % 2];
  slots[thread] = bits;
  meet(running->warps[thread / kLanes]);
  const std::uint32_t other = thread ^ static_cast<std::uint32_t>(mask);
  TORCH_INTERNAL_ASSERT(other / kLanes == thread / kLanes && other < slots.size());
  return slots[other];
}

void run_on_host(void (*body)(const void*), const void* parameters, Grid grid, std::uint32_t threads, bool barriers) {
  running = &own_block();
  running->body = body;
  running->parameters = parameters;
  current.blocks = grid.blocks;
  current.blocks_y = grid.blocks_y;
  for (current.block_y = 0; current.block_y < grid.blocks_y; ++current.block_y) {
    for (current.block = 0; current.block < grid.blocks; ++current.block) {
      if (barriers) {
        run_block(threads);
      } else {
        for (current.thread = 0; current.thread < threads; ++current.thread) {
          body(parameters);
        }
      }
    }
  }
}

}  // namespace moelora::nn::kernels
