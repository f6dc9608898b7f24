#include "moelora/io/finite.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

namespace moelora::io {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Finite, EveryKindOfValueIsSeenInEveryType) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    EXPECT_TRUE(all_finite(at::randn({5, 7}).to(dtype)));
    for (const float bad : {kNaN, kInfinity, -kInfinity}) {
      at::Tensor values = at::randn({5, 7}).to(dtype);
      values[4][6] = bad;
      EXPECT_FALSE(all_finite(values));
      EXPECT_EQ(count_not_finite(values), 1);
    }
    at::Tensor both = at::zeros({2, 3}, dtype);
    both[0][1] = kInfinity;
    both[1][0] = -kInfinity;
    EXPECT_FALSE(all_finite(both)) << "infinities of both signs";
    EXPECT_EQ(count_not_finite(both), 2);
  }
}

TEST(Finite, LargeFiniteValuesWhoseSumOverflowsAreFinite) {
  EXPECT_TRUE(all_finite(at::full({1000}, 3e38)));
  EXPECT_TRUE(all_finite(at::full({1000}, 60000.0, at::kHalf)));
  EXPECT_TRUE(all_finite(at::full({3}, std::numeric_limits<std::int64_t>::max(), at::kLong)));
  EXPECT_TRUE(all_finite(at::zeros({0})));
}

TEST(Finite, OfSeveralTensorsEachCounts) {
  const at::Tensor good = at::randn({3});
  const at::Tensor huge = at::full({1000}, 3e38);
  EXPECT_TRUE(all_finite(std::vector<at::Tensor>{good, huge, at::zeros({2}, at::kLong), at::zeros({0})}));
  EXPECT_TRUE(all_finite(std::vector<at::Tensor>{}));
  const at::Tensor bad = at::full({2}, kNaN);
  EXPECT_FALSE(all_finite(std::vector<at::Tensor>{good, bad}));
  EXPECT_FALSE(all_finite(std::vector<at::Tensor>{bad, good}));
}

TEST(Finite, TheDescriptionNamesTheFirstPlace) {
  at::Tensor values = at::zeros({3, 4});
  EXPECT_EQ(describe_not_finite(values), "");
  values[2][1] = -kInfinity;
  EXPECT_EQ(describe_not_finite(values), "1 of 12 values is not finite, the first is -Inf at [2, 1]");
  values[1][3] = kNaN;
  EXPECT_EQ(describe_not_finite(values), "2 of 12 values are not finite, the first is NaN at [1, 3]");
  EXPECT_NE(describe_not_finite(at::scalar_tensor(kNaN)).find("NaN at []"), std::string::npos);
}

}  // namespace
}  // namespace moelora::io
