#pragma once

#include <cstddef>
#include <string_view>

namespace moelora::io {

/// Levenshtein distance in bytes, a swap of neighbours counting as one change. Takes a time that grows with the product
/// of both lengths: callers bound what comes from files.
std::size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace moelora::io
