#include "moelora/data/balance.h"

#include <algorithm>
#include <numeric>

#include "moelora/io/error.h"

namespace moelora::data {

std::vector<std::vector<std::int64_t>> balance(const std::vector<std::int64_t>& costs, std::int64_t parts) {
  MOELORA_CHECK(parts >= 1, "expected 1 or more parts, found ", parts);
  std::vector<std::int64_t> order(costs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) { return costs[a] > costs[b]; });
  std::vector<std::vector<std::int64_t>> items(static_cast<std::size_t>(parts));
  std::vector<std::int64_t> loads(items.size(), 0);
  for (const std::int64_t item : order) {
    const auto least = std::min_element(loads.begin(), loads.end()) - loads.begin();
    items[least].push_back(item);
    loads[least] += costs[item];
  }
  for (std::vector<std::int64_t>& part : items) {
    std::sort(part.begin(), part.end());
  }
  return items;
}

}  // namespace moelora::data
