#include "moelora/io/provenance.h"

#include <torch/version.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#ifndef MOELORA_VERSION
#define MOELORA_VERSION "0.1.0"
#endif

namespace moelora::io {
namespace {

std::string shell_quoted(const std::string& word) {
  static constexpr char kHarmless[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_";
  if (!word.empty() && word.find_first_not_of(kHarmless) == std::string::npos) {
    return word;
  }
  std::string quoted = "'";
  for (const char c : word) {
    quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  }
  return quoted + "'";
}

std::string time_in_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

#if defined(__clang__)
constexpr char kCompiler[] = __VERSION__;
#else
constexpr char kCompiler[] = "gcc " __VERSION__;
#endif

// Arguments need not be UTF-8, but JSON must be: other bytes become U+FFFD.
std::string as_utf8(const std::string& text) {
  using Json = nlohmann::ordered_json;
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace

std::string command_line() {
  std::ifstream stream("/proc/self/cmdline", std::ios::binary);
  std::string line;
  for (std::string word; std::getline(stream, word, '\0');) {
    line += (line.empty() ? "" : " ") + shell_quoted(word);
  }
  return line;
}

nlohmann::ordered_json provenance() {
  return {{"version", MOELORA_VERSION},
          {"command", as_utf8(command_line())},
          {"time_utc", time_in_utc()},
          {"libtorch", TORCH_VERSION},
          {"compiler", kCompiler}};
}

}  // namespace moelora::io
