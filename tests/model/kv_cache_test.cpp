#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace moelora::model {
namespace {

constexpr std::int64_t kHeads = 4;
constexpr std::int64_t kHeadDim = 8;

// One layer.
ModelShape shape_with(std::int64_t kv_heads, std::int64_t max_sequence_length = 64) {
  return {1, kHeads, kv_heads, kHeadDim, kHeads * kHeadDim, 10, max_sequence_length};
}

struct Rows {
  at::Tensor q, k, v;
};

Rows random_rows(std::int64_t count, std::int64_t kv_heads) {
  const std::vector<std::int64_t> shape{count, kv_heads, kHeadDim};
  return {at::randn({count, kHeads, kHeadDim}), at::randn(shape), at::randn(shape)};
}

nn::Segments one_row_each(std::int64_t count) {
  return nn::Segments::from_lengths(std::vector<std::int64_t>(static_cast<std::size_t>(count), 1));
}

// The new rows' attention by both ways that the cache has: they must agree, also after sequences left, with a prefix
// in front, when the ways alternate, with shared keys and values, and in a cache that has to grow (3 rows are less than
// the prompts have).
TEST(KvCache, RowsAppendedByTheKernelEqualTheTensorPath) {
  at::manual_seed(1);
  const at::NoGradGuard guard;
  for (const std::int64_t kv_heads : {kHeads, std::int64_t{2}, std::int64_t{1}}) {
    for (const bool with_prefix : {false, true}) {
      KvCache fused(shape_with(kv_heads), 3, 3, at::kFloat, at::kCPU);
      KvCache plain(shape_with(kv_heads), 3, 24, at::kFloat, at::kCPU);
      nn::KeyValuePrefix prefix;
      if (with_prefix) {
        prefix = {at::randn({3, kv_heads, kHeadDim}), at::randn({3, kv_heads, kHeadDim})};
      }
      EXPECT_FALSE(fused.supports_append_row());
      const nn::Segments prompt = nn::Segments::from_lengths({4, 7, 2}, {3, 6, 1});
      const Rows first = random_rows(13, kv_heads);
      for (KvCache* cache : {&fused, &plain}) {
        cache->append_and_attend(0, first.q, first.k, first.v, prompt, prefix);
        cache->advance(prompt);
      }
      ASSERT_TRUE(fused.supports_append_row());
      for (int step = 0; step < 6; ++step) {
        if (step == 2 || step == 4) {
          const std::vector<std::int64_t> kept =
              step == 2 ? std::vector<std::int64_t>{2, 1} : std::vector<std::int64_t>{1};
          fused.keep(kept);
          plain.keep(kept);
        }
        const auto count = fused.sequences();
        const Rows rows = random_rows(count, kv_heads);
        const at::Tensor expected = plain.append_and_attend(0, rows.q, rows.k, rows.v, one_row_each(count));
        const at::Tensor found = step == 3 ? fused.append_and_attend(0, rows.q, rows.k, rows.v, one_row_each(count))
                                           : fused.append_row(0, rows.q, rows.k, rows.v);
        EXPECT_TRUE(at::allclose(found, expected, 1e-5, 1e-6))
            << "step " << step << " prefix " << with_prefix << " kv heads " << kv_heads;
        fused.advance(one_row_each(count));
        plain.advance(one_row_each(count));
      }
      EXPECT_EQ(fused.sequences(), 1);
      EXPECT_EQ(fused.length(0), 13);  // the one with 7 rows of prompt
      EXPECT_EQ(plain.capacity(), 24);
    }
  }
}

TEST(KvCache, GrowsByDoublingAndChangesNoBits) {
  at::manual_seed(2);
  const at::NoGradGuard guard;
  KvCache small(shape_with(2, 40), 2, 1, at::kFloat, at::kCPU);
  KvCache large(shape_with(2, 40), 2, 40, at::kFloat, at::kCPU);
  const nn::Segments prompt = nn::Segments::from_lengths({3, 5});
  const Rows first = random_rows(8, 2);
  EXPECT_TRUE(at::equal(small.append_and_attend(0, first.q, first.k, first.v, prompt),
                        large.append_and_attend(0, first.q, first.k, first.v, prompt)));
  small.advance(prompt);
  large.advance(prompt);
  EXPECT_EQ(small.capacity(), 5);
  for (const std::int64_t capacity : {10, 10, 10, 10, 10, 20}) {
    const Rows rows = random_rows(2, 2);
    EXPECT_TRUE(at::equal(small.append_row(0, rows.q, rows.k, rows.v), large.append_row(0, rows.q, rows.k, rows.v)));
    small.advance(one_row_each(2));
    large.advance(one_row_each(2));
    EXPECT_EQ(small.capacity(), capacity);
  }
  small.keep({1});
  large.keep({1});
  while (large.length(0) < 40) {  // no more room than the model can use
    const Rows rows = random_rows(1, 2);
    ASSERT_TRUE(at::equal(small.append_row(0, rows.q, rows.k, rows.v), large.append_row(0, rows.q, rows.k, rows.v)));
    small.advance(one_row_each(1));
    large.advance(one_row_each(1));
  }
  EXPECT_EQ(small.capacity(), 40);
}

TEST(KvCache, WithGradientsTheTensorPathServes) {
  KvCache cache(shape_with(kHeads), 1, 4, at::kFloat, at::kCPU);
  const Rows rows = random_rows(2, kHeads);
  const nn::Segments prompt = nn::Segments::from_lengths({2}, {2});
  cache.append_and_attend(0, rows.q, rows.k, rows.v, prompt);
  cache.advance(prompt);
  EXPECT_FALSE(cache.supports_append_row());
  const at::NoGradGuard guard;
  EXPECT_TRUE(cache.supports_append_row());
}

}  // namespace
}  // namespace moelora::model
