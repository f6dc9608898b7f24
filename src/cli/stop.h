#pragma once
// Ctrl-C and SIGTERM as a wish to stop: the first one sets a flag, the second one ends the program.

#include <atomic>

namespace moelora::cli {

/// Listens from now on. The flag lives as long as the program.
const std::atomic<bool>& stop_on_signals();

}  // namespace moelora::cli
