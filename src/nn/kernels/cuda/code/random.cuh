#pragma once
// The random numbers of io/splitmix64.h.

#include "language.cuh"

namespace moelora::device {

/// What the generator's state grows by with each number.
constexpr uint64 kSplitMixStep = 0x9e3779b97f4a7c15ull;

/// The number that belongs to a state.
MOELORA_DEVICE uint64 splitmix_output(uint64 state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
  return state ^ (state >> 31);
}

/// The first number of a generator that is seeded with x.
MOELORA_DEVICE uint64 splitmix(uint64 x) { return splitmix_output(x + kSplitMixStep); }

}  // namespace moelora::device
