#include "io/memory.h"

#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

#include "moelora/io/error.h"

namespace moelora::io {

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
    throw Error(detail::concat(what, sizes, advice));
  }
}

}  // namespace moelora::io
