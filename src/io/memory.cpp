#include "moelora/io/memory.h"

#include <c10/util/Exception.h>

#include <cstdio>
#include <fstream>
#include <limits>
#include <new>
#include <string>

namespace moelora::io {

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr || dynamic_cast<const OutOfMemory*>(&error) != nullptr ||
      dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) {
    return true;
  }
  // LibTorch's allocator of the CPU has no type of its own for it: its words are recognised here and nowhere else.
  const auto* of_libtorch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = of_libtorch != nullptr ? of_libtorch->what_without_backtrace() : "";
  return text.find("out of memory") != std::string::npos || text.find("can't allocate memory") != std::string::npos;
}

std::optional<double> available_memory() {
  std::ifstream stream("/proc/meminfo");
  for (std::string name; stream >> name; stream.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
    double kibibytes = 0.0;
    if (name == "MemAvailable:" && stream >> kibibytes) {
      return kibibytes * 1024.0;
    }
  }
  return std::nullopt;
}

void check_memory(double bytes, const char* what, const char* advice) {
  constexpr double kNeverTooMuch = 1e8;  // for these nobody needs to look
  const auto available = bytes > kNeverTooMuch ? available_memory() : std::nullopt;
  if (available && bytes > *available) {
    char sizes[96];
    std::snprintf(sizes, sizeof sizes, " takes %.3g GB, but %.1f GB of memory are available; ", bytes / 1e9,
                  *available / 1e9);
    throw OutOfMemory(detail::concat(what, sizes, advice));
  }
}

}  // namespace moelora::io
