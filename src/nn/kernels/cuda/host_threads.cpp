#include "nn/kernels/cuda/host_threads.h"

#include <c10/util/Exception.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
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

// Begun once, then it runs its thread of one block after the other. Changes are jumps: unlike swapcontext they need no
// system call.
struct Fiber {
  ucontext_t context{};
  jmp_buf place;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  bool begun = false;
  bool done = false;
};

// The block that this thread of the host runs.
struct Block {
  jmp_buf scheduler;
  std::vector<std::unique_ptr<Fiber>> fibers;  // as many as a block had threads at most
  Meeting all;
  std::vector<Meeting> warps;
  std::vector<std::uint32_t> slots[2];  // values of a shuffle, in turns: a slow reader's are not yet overwritten
  std::vector<std::uint32_t> shuffles;  // of each thread
  bool progress = false;
  void (*body)(const void*) = nullptr;
  const void* parameters = nullptr;
};

thread_local HostThread current;
thread_local Block running;

// From a fiber to the scheduler, until that resumes it.
void pause() {
  if (_setjmp(running.fibers[current.thread]->place) == 0) {
    _longjmp(running.scheduler, 1);
  }
}

void fiber_main() {
  while (true) {
    running.body(running.parameters);
    running.fibers[current.thread]->done = true;
    running.progress = true;
    pause();
  }
}

// From the scheduler to a fiber, until that pauses.
void resume(Fiber& fiber) {
  if (_setjmp(running.scheduler) != 0) {
    return;
  }
  if (fiber.begun) {
    _longjmp(fiber.place, 1);
  }
  fiber.begun = true;
  setcontext(&fiber.context);
}

void meet(Meeting& meeting) {
  const std::uint64_t round = meeting.round;
  if (++meeting.arrived == meeting.size) {
    meeting.arrived = 0;
    ++meeting.round;
    running.progress = true;
    return;
  }
  while (meeting.round == round) {
    pause();
  }
}

void begin_block(std::uint32_t threads) {
  while (running.fibers.size() < threads) {
    running.fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *running.fibers.back();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, fiber_main, 0);
  }
  running.all = {threads, 0, 0};
  running.warps.clear();
  for (std::uint32_t first = 0; first < threads; first += kLanes) {
    running.warps.push_back({std::min(kLanes, threads - first), 0, 0});
  }
  for (auto& slots : running.slots) {
    slots.assign(threads, 0);
  }
  running.shuffles.assign(threads, 0);
  for (std::uint32_t i = 0; i < threads; ++i) {
    running.fibers[i]->done = false;
  }
}

void run_block(std::uint32_t threads) {
  begin_block(threads);
  for (std::uint32_t left = threads; left > 0;) {
    running.progress = false;
    left = 0;
    for (std::uint32_t i = 0; i < threads; ++i) {
      if (!running.fibers[i]->done) {
        current.thread = i;
        resume(*running.fibers[i]);
        left += running.fibers[i]->done ? 0 : 1;
      }
    }
    if (!running.progress) {
      running.fibers.clear();  // those that wait never go on
      TORCH_INTERNAL_ASSERT(false, "threads of a block wait for others that have returned or wait elsewhere");
    }
  }
}

}  // namespace

HostThread& host_thread() { return current; }

void host_barrier() { meet(running.all); }

std::uint32_t host_shuffle_xor(std::uint32_t bits, int mask) {
  const std::uint32_t thread = current.thread;
  auto& slots = running.slots[running.shuffles[thread]++ % 2];
  slots[thread] = bits;
  meet(running.warps[thread / kLanes]);
  const std::uint32_t other = thread ^ static_cast<std::uint32_t>(mask);
  TORCH_INTERNAL_ASSERT(other / kLanes == thread / kLanes && other < slots.size());
  return slots[other];
}

void run_on_host(void (*body)(const void*), const void* parameters, Grid grid, std::uint32_t threads, bool barriers) {
  running.body = body;
  running.parameters = parameters;
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
