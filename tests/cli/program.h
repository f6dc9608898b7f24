#pragma once
// Runs the program as a user does.

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>
#include <vector>

namespace moelora::testing {

struct Run {
  int code = -1;     ///< Exit code; -1: ended by a signal.
  std::string text;  ///< stdout and stderr
  bool has(const std::string& part) const { return text.find(part) != std::string::npos; }
};

/// A command of the shell, with what it prints on stdout (the command decides about stderr).
inline Run output_of(const std::string& command) {
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

/// One word for the shell; it holds no quote itself.
inline std::string quoted(const std::string& word) { return "'" + word + "'"; }

/// `moelora WORDS…` for the shell.
inline std::string command_of(const std::vector<std::string>& words) {
  std::string command = quoted(MOELORA_PROGRAM);
  for (const std::string& word : words) {
    command += " " + quoted(word);
  }
  return command;
}

/// `moelora ARGUMENTS` through the shell.
inline Run run(const std::string& arguments) { return output_of(command_of({}) + " " + arguments + " 2>&1"); }
/// `moelora WORDS…`, none of which the shell reads.
inline Run run_words(const std::vector<std::string>& words) { return output_of(command_of(words) + " 2>&1"); }

}  // namespace moelora::testing
