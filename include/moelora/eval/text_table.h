#pragma once
// Tables for terminals.

#include <cstddef>
#include <string>
#include <vector>

namespace moelora::eval {

/// One line per row, columns as wide as their widest cell. The first `left` columns are aligned to the left, the others
/// to the right.
std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t left);

}  // namespace moelora::eval
