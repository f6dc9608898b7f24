#pragma once
// Runs the program as a user does.

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace moelora::testing {

struct Run {
  int code = -1;     ///< Exit code; -1: ended by a signal.
  std::string text;  ///< stdout and stderr
  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
};

/// `moelora ARGUMENTS` through the shell.
inline Run run(const std::string& arguments) {
  const std::string command = std::string("'") + MOELORA_PROGRAM + "' " + arguments + " 2>&1";
  Run result;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.text.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}

}  // namespace moelora::testing
