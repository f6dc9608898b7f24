#pragma once
// Lists of problems and names in messages.

#include <cstddef>
#include <string>
#include <vector>

namespace moelora {

/// "\n  " before each of the first entries, and how many more there are.
std::string listed(const std::vector<std::string>& entries, std::size_t limit = 20);

}  // namespace moelora
