#pragma once
// Programs that do nothing but read memory, one set for each instruction set: no other program that reads as much can
// be expected to be faster than the fastest of them.

#include <cstdint>

namespace moelora::bench {

struct Reader {
  int streams;  ///< straight lines through the memory, read in turn
  int ahead;    ///< bytes that are fetched ahead; 0: left to the hardware
  /// Reads `count` elements; returns a sum of them, so that no read can be left out.
  float (*read)(const float* from, std::int64_t count);
};

constexpr int kReaders = 12;  ///< of each instruction set

namespace plain {
const Reader* readers();
}
namespace avx2 {
const Reader* readers();
}
namespace avx512 {
const Reader* readers();
}

}  // namespace moelora::bench
