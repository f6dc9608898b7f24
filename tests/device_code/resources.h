#pragma once
// What the assembler says of a kernel (ptxas -v).

#include <optional>
#include <regex>
#include <string>

namespace moelora::testing {

struct Resources {
  int registers = 0;
  int stack_bytes = 0;  // local memory of a thread: arrays that don't fit into registers, spills among them
  int spill_stores = 0;
  int spill_loads = 0;
  int shared_bytes = 0;
};

inline std::optional<int> number_before(const std::string& log, const std::string& words) {
  std::smatch match;
  return std::regex_search(log, match, std::regex("([0-9]+) " + words)) ? std::optional<int>(std::stoi(match[1]))
                                                                        : std::nullopt;
}

/// Of the kernel that the log is about; nothing if it does not say.
inline std::optional<Resources> resources_of(const std::string& log) {
  const auto registers = number_before(log, "registers");
  const auto stack = number_before(log, "bytes stack frame");
  const auto stores = number_before(log, "bytes spill stores");
  const auto loads = number_before(log, "bytes spill loads");
  if (!registers || !stack || !stores || !loads) {
    return std::nullopt;
  }
  return Resources{*registers, *stack, *stores, *loads, number_before(log, "bytes smem").value_or(0)};
}

}  // namespace moelora::testing
