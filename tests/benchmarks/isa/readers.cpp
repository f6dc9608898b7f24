// Compiled once for each instruction set, as the library's kernels are.

#include "benchmarks/isa/readers.h"

#include "nn/kernels/cpu/isa/registers.h"

namespace moelora::bench::MOELORA_ISA {
namespace {

using nn::kernels::MOELORA_ISA::kWidth;
using nn::kernels::MOELORA_ISA::load_unaligned;
using nn::kernels::MOELORA_ISA::Vector;

constexpr int kLine = 16;  // elements of a cache line
constexpr int kParts = kLine / kWidth;

template <int streams, int ahead>
float read(const float* from, std::int64_t count) {
  Vector sums[streams][kParts] = {};
  const std::int64_t each = count / streams / kLine * kLine;
  for (std::int64_t i = 0; i < each; i += kLine) {
#pragma GCC unroll 4
    for (int s = 0; s < streams; ++s) {
      const float* at = from + s * each + i;
      if constexpr (ahead > 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(at) + ahead);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        sums[s][p] += load_unaligned<Vector>(at + p * kWidth);
      }
    }
  }
  Vector total = {};
  for (int s = 0; s < streams; ++s) {
    for (int p = 0; p < kParts; ++p) {
      total += sums[s][p];
    }
  }
  float sum = 0.0f;
  for (int i = 0; i < kWidth; ++i) {
    sum += total[i];
  }
  for (std::int64_t i = streams * each; i < count; ++i) {
    sum += from[i];
  }
  return sum;
}

template <int streams, int ahead>
constexpr Reader kReader = {streams, ahead, read<streams, ahead>};

}  // namespace

const Reader* readers() {
  static constexpr Reader kAll[kReaders] = {
      kReader<1, 0>,    kReader<1, 2048>, kReader<1, 4096>, kReader<1, 8192>, kReader<2, 0>,    kReader<2, 2048>,
      kReader<2, 4096>, kReader<2, 8192>, kReader<4, 0>,    kReader<4, 2048>, kReader<4, 4096>, kReader<4, 8192>,
  };
  return kAll;
}

}  // namespace moelora::bench::MOELORA_ISA
