#pragma once
// Log lines of the library: level, time and text on stderr, through spdlog.

#include <string>

namespace moelora::log {

enum class Level { debug, info, warning, error, off };

void set_level(Level level);  ///< Lines below `level` are dropped. Default: info.
void debug(const std::string& text);
void info(const std::string& text);
void warning(const std::string& text);
void error(const std::string& text);

}  // namespace moelora::log
