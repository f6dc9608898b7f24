#pragma once
// Random numbers of our own, so that a seed means the same samples with every compiler and standard library.

#include <cstdint>
#include <utility>
#include <vector>

#include "moelora/io/splitmix64.h"

namespace moelora::data {

/// SplitMix64 (io/splitmix64.h).
class SplitMix64 {
 public:
  explicit SplitMix64(std::uint64_t state) : state_(state) {}
  std::uint64_t next() {
    state_ += io::kSplitMixStep;
    return io::splitmix_output(state_);
  }
  /// Uniform in [0, bound), without bias.
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t unfair = (0 - bound) % bound;  // 2^64 mod bound: that many values are drawn again
    std::uint64_t drawn = next();
    while (drawn < unfair) {
      drawn = next();
    }
    return drawn % bound;
  }

 private:
  std::uint64_t state_;
};

/// A generator for one purpose: streams of different (seed, a, b) don't overlap in practice.
inline SplitMix64 stream(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  SplitMix64 mixer(seed);
  SplitMix64 second(mixer.next() ^ a);
  SplitMix64 third(second.next() ^ b);
  return SplitMix64(third.next());
}

/// Fisher-Yates.
inline void shuffle(std::vector<std::int64_t>& values, SplitMix64 random) {
  for (std::size_t i = values.size(); i > 1; --i) {
    std::swap(values[i - 1], values[random.below(i)]);
  }
}

}  // namespace moelora::data
