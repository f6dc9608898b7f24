#pragma once
// What the fuzzers have in common: files in memory, and what counts as a finding.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "moelora/io/error.h"
#include "moelora/log/log.h"

namespace moelora::fuzz {

/// A file that lives in memory, rewritten for every input.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("input", 0)) {}
  std::filesystem::path write(std::string_view bytes) {
    if (ftruncate(descriptor_, 0) != 0 ||
        pwrite(descriptor_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
    return "/proc/self/fd/" + std::to_string(descriptor_);
  }

 private:
  int descriptor_;
};

/// An error of ours is what bad input deserves. Any other exception ends the process, and is a finding.
template <typename Action>
bool accepted(Action&& action) {
  try {
    action();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A property that must hold.
inline void require(bool condition) {
  if (!condition) {
    std::abort();
  }
}

inline void be_quiet() { log::set_level(log::Level::off); }

}  // namespace moelora::fuzz
