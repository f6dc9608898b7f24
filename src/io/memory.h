#pragma once
// How much memory there is, for those who are about to ask for much of it.

#include <optional>

namespace moelora::io {

/// Bytes that programs can still have without swapping; nothing where the system does not say.
std::optional<double> available_memory();

/// Error "WHAT takes … GB, … GB of memory are available; ADVICE" if `bytes` are more than that.
void check_memory(double bytes, const char* what, const char* advice);

}  // namespace moelora::io
