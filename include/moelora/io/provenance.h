#pragma once
// Where a file came from: program version, command line, time, LibTorch version, and whatever the caller adds.

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moelora::io {

/// The command line of this process as a shell would read it (from /proc; empty where there is none).
std::string command_line();

/// {"version", "command", "time_utc", "libtorch", "compiler"}.
nlohmann::ordered_json provenance();

}  // namespace moelora::io
