#pragma once
// What a reader may cost: an error or a value, within the time and memory that a file of its size can ask for.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <ctime>
#include <fstream>
#include <string>

#include "moelora/io/error.h"

namespace moelora::testing {

/// Sets a limit of so many more bytes of address space than the process has now, for the time of its life. Does nothing
/// under AddressSanitizer, which reserves its memory in advance.
class MemoryLimit {
 public:
  explicit MemoryLimit(std::size_t bytes) {
    getrlimit(RLIMIT_AS, &before_);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    struct rlimit limit = before_;
    limit.rlim_cur = pages * 4096 + bytes;
    setrlimit(RLIMIT_AS, &limit);
  }
  ~MemoryLimit() { setrlimit(RLIMIT_AS, &before_); }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  struct rlimit before_ {};
};

/// Success if `action` ends within 5 s of processor time and `megabytes` of memory, with an error of ours that contains
/// `part` (or, where `part` is empty, without one).
template <typename Action>
::testing::AssertionResult bounded(Action&& action, const std::string& part, std::size_t megabytes = 300) {
  const std::clock_t start = std::clock();
  std::string said;
  try {
    const MemoryLimit limit(megabytes << 20);
    action();
  } catch (const Error& error) {
    said = error.what();
  } catch (const std::exception& error) {
    return ::testing::AssertionFailure() << "not an error of ours, or out of memory: " << error.what();
  }
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  if (seconds > 5.0) {
    return ::testing::AssertionFailure() << "it took " << seconds << " s; it said: " << said.substr(0, 500);
  }
  if (part.empty() ? !said.empty() : said.find(part) == std::string::npos) {
    return ::testing::AssertionFailure() << "expected \"" << part << "\", found: " << said.substr(0, 500);
  }
  if (said.size() > 100000) {
    return ::testing::AssertionFailure() << "nobody reads an error of " << said.size() << " bytes";
  }
  return ::testing::AssertionSuccess();
}

/// `text` so many times.
inline std::string repeated(const std::string& text, std::size_t times) {
  std::string all;
  all.reserve(text.size() * times);
  for (std::size_t i = 0; i < times; ++i) {
    all += text;
  }
  return all;
}

}  // namespace moelora::testing
