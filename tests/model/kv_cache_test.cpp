#include "moelora/model/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace moelora::model {
namespace {

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kHeadDim = 8;

struct Rows {
  at::Tensor q, k, v;
};

Rows random_rows(std::int64_t count) {
  const std::vector<std::int64_t> shape{count, kHeads, kHeadDim};
  return {at::randn(shape), at::randn(shape), at::randn(shape)};
}

// Tables that turn nothing.
nn::RotaryTables no_rotation(std::int64_t rows) { return {at::ones({rows, kHeadDim}), at::zeros({rows, kHeadDim})}; }

nn::Segments one_row_each(std::int64_t count) {
  return nn::Segments::from_lengths(std::vector<std::int64_t>(count, 1), std::vector<std::int64_t>(count, 0));
}

// The new rows' attention by both ways that the cache has: they must agree, also after sequences left, with a prefix
// in front and when the ways alternate.
TEST(KvCache, RowsAppendedByTheKernelEqualTheTensorPath) {
  at::manual_seed(1);
  const at::NoGradGuard guard;
  for (const bool with_prefix : {false, true}) {
    const auto make = [] { return KvCache(1, 3, 24, kHeads, kHeadDim, at::kFloat, at::kCPU); };
    KvCache fused = make();
    KvCache plain = make();
    nn::KeyValuePrefix prefix;
    if (with_prefix) {
      prefix = {at::randn({3, kHeads, kHeadDim}), at::randn({3, kHeads, kHeadDim})};
    }
    EXPECT_FALSE(fused.supports_append_row());
    const nn::Segments prompt = nn::Segments::from_lengths({4, 7, 2}, {3, 6, 1});
    const Rows first = random_rows(13);
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
      const Rows rows = random_rows(count);
      const at::Tensor expected = plain.append_and_attend(0, rows.q, rows.k, rows.v, one_row_each(count));
      const at::Tensor found = step == 3 ? fused.append_and_attend(0, rows.q, rows.k, rows.v, one_row_each(count))
                                         : fused.append_row(0, rows.q, rows.k, rows.v, no_rotation(count));
      EXPECT_TRUE(at::allclose(found, expected, 1e-5, 1e-6)) << "step " << step << " prefix " << with_prefix;
      fused.advance(one_row_each(count));
      plain.advance(one_row_each(count));
    }
    EXPECT_EQ(fused.sequences(), 1);
    EXPECT_EQ(fused.length(0), 13);  // the one with 7 rows of prompt
  }
}

TEST(KvCache, WithGradientsTheTensorPathServes) {
  KvCache cache(1, 1, 4, kHeads, kHeadDim, at::kFloat, at::kCPU);
  const Rows rows = random_rows(2);
  const nn::Segments prompt = nn::Segments::from_lengths({2}, {2});
  cache.append_and_attend(0, rows.q, rows.k, rows.v, prompt);
  cache.advance(prompt);
  EXPECT_FALSE(cache.supports_append_row());
  const at::NoGradGuard guard;
  EXPECT_TRUE(cache.supports_append_row());
}

}  // namespace
}  // namespace moelora::model
