#pragma once
#include <cstdint>
#include <string>

namespace moelora::io {

/// 6173286400 → "6,173,286,400".
std::string with_commas(std::int64_t number);

}  // namespace moelora::io
