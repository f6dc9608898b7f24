#pragma once
// Device code on the host: blocks one after the other, a block's threads as fibers, which change at barriers and
// shuffles. Slow and exact in what it is for: tests of the arithmetic, of barriers and of places, without a card.

#include <cstdint>

namespace moelora::nn::kernels {

struct Grid {
  std::uint32_t blocks = 1;    ///< x
  std::uint32_t blocks_y = 1;  ///< y
};

/// Where the running thread stands.
struct HostThread {
  std::uint32_t block = 0;
  std::uint32_t block_y = 0;
  std::uint32_t blocks = 0;
  std::uint32_t blocks_y = 0;
  std::uint32_t thread = 0;
};
HostThread& host_thread();

/// All threads of the block.
void host_barrier();
/// The bits that lane (own ^ mask) of the warp holds; all its lanes call it.
std::uint32_t host_shuffle_xor(std::uint32_t bits, int mask);

/// Runs body(parameters) for every thread of the grid. `barriers`: whether the threads of a block meet. An internal
/// error if some of them do and others have returned or wait elsewhere: on a card that would hang or be undefined.
void run_on_host(void (*body)(const void*), const void* parameters, Grid grid, std::uint32_t threads, bool barriers);

}  // namespace moelora::nn::kernels
