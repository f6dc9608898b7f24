#include "moelora/data/balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "moelora/io/error.h"

namespace moelora::data {
namespace {

using Parts = std::vector<std::vector<std::int64_t>>;

TEST(Balance, GivesTheLargestFirstToWhoeverHasLeast) {
  EXPECT_EQ(balance({5, 9, 4, 4, 2}, 2), (Parts{{1, 3}, {0, 2, 4}}));  // 13 and 11
  EXPECT_EQ(balance({7, 7, 7}, 3), (Parts{{0}, {1}, {2}}));
  EXPECT_EQ(balance({3, 1, 2}, 1), (Parts{{0, 1, 2}}));
}

TEST(Balance, LeavesPartsEmptyWhenThereIsTooLittle) {
  EXPECT_EQ(balance({4}, 3), (Parts{{0}, {}, {}}));
  EXPECT_EQ(balance({}, 2), (Parts{{}, {}}));
  EXPECT_THROW(balance({1}, 0), Error);
}

TEST(Balance, GivesEachItemOnceAndNoPartMuchMoreThanAnother) {
  std::vector<std::int64_t> costs;
  for (std::int64_t i = 0; i < 200; ++i) {
    costs.push_back(20 + (i * 7919) % 900);
  }
  const std::int64_t largest = *std::max_element(costs.begin(), costs.end());
  for (const std::int64_t parts : {2, 3, 4, 7, 16}) {
    std::vector<std::int64_t> seen;
    std::vector<std::int64_t> loads;
    for (const std::vector<std::int64_t>& part : balance(costs, parts)) {
      seen.insert(seen.end(), part.begin(), part.end());
      loads.push_back(0);
      for (const std::int64_t item : part) loads.back() += costs[item];
    }
    std::sort(seen.begin(), seen.end());
    std::vector<std::int64_t> all(costs.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
    const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
    EXPECT_LE(*most - *least, largest / 4) << parts;
  }
}

}  // namespace
}  // namespace moelora::data
