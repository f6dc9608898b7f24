#pragma once
// Dividing work among several processes so that they end at about the same time.

#include <cstdint>
#include <vector>

namespace moelora::data {

/// Divides items among `parts` by longest processing time first (Graham 1969): each item, largest first, goes to the
/// part that has least. Returns each part's items in ascending order; a part may be empty. A function of its arguments
/// alone, so every process computes the same.
std::vector<std::vector<std::int64_t>> balance(const std::vector<std::int64_t>& costs, std::int64_t parts);

}  // namespace moelora::data
