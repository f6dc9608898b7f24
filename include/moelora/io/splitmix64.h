#pragma once
// SplitMix64 (Steele, Lea, Flood 2014), a generator of 64-bit random numbers whose state is a counter: as a hash it
// turns keys into numbers that look independent.

#include <cstdint>

namespace moelora::io {

/// What the generator's state grows by with each number.
inline constexpr std::uint64_t kSplitMixStep = 0x9e3779b97f4a7c15ull;

/// The number that belongs to a state.
inline std::uint64_t splitmix_output(std::uint64_t state) {
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9ull;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebull;
  return state ^ (state >> 31);
}

/// The first number of a generator that is seeded with x.
inline std::uint64_t splitmix(std::uint64_t x) { return splitmix_output(x + kSplitMixStep); }

}  // namespace moelora::io
