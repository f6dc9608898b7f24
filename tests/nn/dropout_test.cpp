#include "moelora/nn/dropout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "moelora/io/error.h"

namespace moelora::nn {
namespace {

RowContext keyed(const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>& draws,
                 std::uint64_t seed = 7) {
  RowContext context = RowContext::plain(Segments::from_lengths(lengths, lengths));
  context.dropout = {seed, draws};
  return context;
}

TEST(KeyedDropout, KeepsTheExpectedShareAndScales) {
  const RowContext context = keyed({300, 200}, {11, 12});
  const at::Tensor y = apply_keyed_dropout(at::ones({500, 1000}), 0.1, 3, context);
  const at::Tensor kept = y.ne(0);
  EXPECT_NEAR(kept.to(at::kFloat).mean().item<float>(), 0.9, 0.002);
  EXPECT_TRUE(at::allclose(y.masked_select(kept), at::full({1}, 1.0f / 0.9f)));
}

TEST(KeyedDropout, KernelAndTensorOperationsDrawTheSameMask) {
  const RowContext context = keyed({5, 9}, {4, 100000000000});
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    const at::Tensor y = apply_keyed_dropout(at::ones({14, 333}, dtype), 0.3, 99, context);
    EXPECT_TRUE(at::equal(y.ne(0), keyed_dropout_keep_mask(333, 0.3, 99, context))) << dtype;
  }
}

TEST(KeyedDropout, MaskFollowsTheSampleNotThePacking) {
  const at::Tensor x = at::ones({7, 64});
  const at::Tensor together = apply_keyed_dropout(x, 0.5, 1, keyed({3, 4}, {20, 21}));
  const at::Tensor swapped = apply_keyed_dropout(x, 0.5, 1, keyed({4, 3}, {21, 20}));
  EXPECT_TRUE(at::equal(together.narrow(0, 0, 3), swapped.narrow(0, 4, 3)));
  EXPECT_TRUE(at::equal(together.narrow(0, 3, 4), swapped.narrow(0, 0, 4)));
}

TEST(KeyedDropout, DiffersByEachPartOfTheKey) {
  const at::Tensor x = at::ones({3, 512});
  const at::Tensor y = apply_keyed_dropout(x, 0.5, 1, keyed({3}, {20}));
  EXPECT_FALSE(at::equal(y, apply_keyed_dropout(x, 0.5, 2, keyed({3}, {20}))));
  EXPECT_FALSE(at::equal(y, apply_keyed_dropout(x, 0.5, 1, keyed({3}, {21}))));
  EXPECT_FALSE(at::equal(y, apply_keyed_dropout(x, 0.5, 1, keyed({3}, {20}, 8))));
  EXPECT_FALSE(at::equal(y[0], y[1]));
}

TEST(KeyedDropout, IsTheIdentityWhenOff) {
  const at::Tensor x = at::randn({3, 8});
  EXPECT_TRUE(apply_keyed_dropout(x, 0.0, 1, keyed({3}, {20})).is_same(x));
  EXPECT_TRUE(apply_keyed_dropout(x, 0.5, 1, keyed({3}, {})).is_same(x));
  EXPECT_THROW(apply_keyed_dropout(x, 1.0, 1, keyed({3}, {20})), Error);
}

}  // namespace
}  // namespace moelora::nn
