// Runs a program and says what it took: one JSON line on stdout with wall time, processor time and peak memory. The
// program's own output goes to stderr.
//   moelora_measure CASE [--bar GB] -- PROGRAM ARGUMENTS…

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

namespace {

double seconds_in(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

}  // namespace

int main(int argc, char** argv) {
  int at = 2;
  double bar = 0.0;
  if (at + 1 < argc && std::strcmp(argv[at], "--bar") == 0) {
    bar = std::atof(argv[at + 1]);
    at += 2;
  }
  if (at + 1 >= argc || std::strcmp(argv[at], "--") != 0) {
    std::cerr << "usage: moelora_measure CASE [--bar GB] -- PROGRAM ARGUMENTS…\n";
    return 2;
  }
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child == 0) {
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execvp(argv[at + 1], argv + at + 1);
    std::cerr << argv[at + 1] << ": " << std::strerror(errno) << '\n';
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  if (child < 0 || wait4(child, &status, 0, &usage) != child) {
    std::cerr << "cannot run " << argv[at + 1] << ": " << std::strerror(errno) << '\n';
    return 2;
  }
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  const double peak = static_cast<double>(usage.ru_maxrss) * 1024.0 / 1e9;
  const bool succeeded = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  nlohmann::ordered_json line{{"case", argv[1]},
                              {"measure", "peak memory in GB"},
                              {"value", peak},
                              {"seconds", wall},
                              {"processor_seconds", seconds_in(usage.ru_utime) + seconds_in(usage.ru_stime)},
                              {"succeeded", succeeded}};
  if (bar > 0.0) {
    line["bar"] = bar;
    line["holds"] = succeeded && peak <= bar;
  }
  std::cout << line.dump() << std::endl;
  return succeeded ? 0 : 1;
}
