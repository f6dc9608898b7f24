#include "moelora/nn/decode_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/with_threads.h"

namespace moelora::nn {
namespace {

struct DecodeCase {
  at::Tensor q, k, v, keys, values;
  std::vector<std::int64_t> slots, counts;
};

// Queries in fp32, keys as views of a larger tensor: both as graphs have them. kv_heads 0: as many as heads.
DecodeCase decode_case(at::ScalarType dtype, std::int64_t heads, std::int64_t d, std::int64_t capacity,
                       std::vector<std::int64_t> slots, std::vector<std::int64_t> counts, std::int64_t kv_heads = 0) {
  const auto rows = static_cast<std::int64_t>(slots.size());
  const auto slot_count = *std::max_element(slots.begin(), slots.end()) + 2;
  const auto stored = kv_heads == 0 ? heads : kv_heads;
  const at::Tensor mixed = at::randn({rows, stored, 2 * d}).to(dtype);
  return {at::randn({rows, heads, d}),
          mixed.narrow(2, 0, d),
          mixed.narrow(2, d, d),
          at::randn({slot_count, stored, capacity, d}).to(dtype),
          at::randn({slot_count, stored, capacity, d}).to(dtype),
          std::move(slots),
          std::move(counts)};
}

// The same by plain operations, in fp64.
at::Tensor plainly(const DecodeCase& c, at::Tensor keys, at::Tensor values) {
  const auto wide = [](const at::Tensor& t) { return t.to(at::kDouble); };
  const at::Tensor q = wide(c.q);
  const auto group = q.size(1) / c.k.size(1);
  std::vector<at::Tensor> rows;
  for (std::size_t i = 0; i < c.slots.size(); ++i) {
    keys[c.slots[i]].select(1, c.counts[i]).copy_(c.k[static_cast<std::int64_t>(i)]);
    values[c.slots[i]].select(1, c.counts[i]).copy_(c.v[static_cast<std::int64_t>(i)]);
    const auto seen_of = [&](const at::Tensor& cache) {
      return wide(cache[c.slots[i]].narrow(1, 0, c.counts[i] + 1)).repeat_interleave(group, 0);
    };
    const at::Tensor seen = seen_of(keys);
    const at::Tensor scores = at::matmul(seen, q[static_cast<std::int64_t>(i)].unsqueeze(2)).squeeze(2) /
                              std::sqrt(static_cast<double>(q.size(2)));
    rows.push_back(at::matmul(at::softmax(scores, 1).unsqueeze(1), seen_of(values)).squeeze(1));
  }
  return at::stack(rows);
}

TEST(DecodeAttention, EqualsPlainOperationsAndAppendsInPlace) {
  at::manual_seed(1);
  for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 2e-6}, {at::kHalf, 2e-3}, {at::kBFloat16, 2e-2}}) {
    for (const std::int64_t d : {4, 8, 20, 64, 96, 128}) {
      const DecodeCase c = decode_case(dtype, 3, d, 70, {2, 0, 5}, {0, 17, 69});
      at::Tensor keys = c.keys.clone();
      at::Tensor values = c.values.clone();
      const at::Tensor out = decode_attention(c.q, c.k, c.v, {keys, values, c.slots, c.counts});
      at::Tensor plain_keys = c.keys.clone();
      at::Tensor plain_values = c.values.clone();
      const at::Tensor expected = plainly(c, plain_keys, plain_values);
      EXPECT_EQ(out.scalar_type(), dtype);
      EXPECT_LT((out.to(at::kDouble) - expected).abs().max().item<double>(), tolerance) << dtype << " d " << d;
      EXPECT_TRUE(at::equal(values, plain_values));
      EXPECT_TRUE(at::equal(keys, plain_keys));
    }
  }
}

TEST(DecodeAttention, QueryHeadsShareKeysAndValues) {
  at::manual_seed(4);
  for (const std::int64_t kv_heads : {1, 2, 3}) {
    for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 2e-6}, {at::kHalf, 2e-3}}) {
      const DecodeCase c = decode_case(dtype, 6, 20, 70, {2, 0, 5}, {0, 17, 69}, kv_heads);
      at::Tensor keys = c.keys.clone();
      at::Tensor values = c.values.clone();
      const at::Tensor out = decode_attention(c.q, c.k, c.v, {keys, values, c.slots, c.counts});
      at::Tensor plain_keys = c.keys.clone();
      at::Tensor plain_values = c.values.clone();
      const at::Tensor expected = plainly(c, plain_keys, plain_values);
      EXPECT_LT((out.to(at::kDouble) - expected).abs().max().item<double>(), tolerance) << kv_heads;
      EXPECT_TRUE(at::equal(keys, plain_keys));
      EXPECT_TRUE(at::equal(values, plain_values));
    }
  }
}

TEST(DecodeAttention, RoundsNewKeysButNotQueriesInAHalfModel) {
  at::manual_seed(5);
  const DecodeCase c = decode_case(at::kHalf, 2, 32, 40, {0}, {39});
  const at::Tensor k = c.k.to(at::kFloat) + 1e-5;
  at::Tensor keys = c.keys.clone();
  at::Tensor values = c.values.clone();
  const at::Tensor out = decode_attention(c.q, k, c.v, {keys, values, c.slots, c.counts});
  EXPECT_TRUE(at::equal(keys[0].select(1, 39), k[0].to(at::kHalf)));
  const at::Tensor rounded = decode_attention(c.q.to(at::kHalf), k, c.v, {keys, values, c.slots, c.counts});
  EXPECT_TRUE(at::allclose(out, rounded, 1e-2, 1e-2));
}

TEST(DecodeAttention, LargeScoresDoNotOverflow) {
  at::manual_seed(2);
  DecodeCase c = decode_case(at::kFloat, 2, 32, 40, {0}, {39});
  c.keys.mul_(1000.0);
  at::Tensor keys = c.keys.clone();
  at::Tensor values = c.values.clone();
  const at::Tensor out = decode_attention(c.q, c.k, c.v, {keys, values, c.slots, c.counts});
  const at::Tensor expected = plainly(c, c.keys.clone(), c.values.clone());
  EXPECT_LT((out.to(at::kDouble) - expected).abs().max().item<double>(), 1e-3);
}

TEST(DecodeAttention, ARowsResultDependsOnNothingElse) {
  at::manual_seed(3);
  const DecodeCase c = decode_case(at::kFloat, 4, 64, 300, {0, 1, 2}, {250, 3, 99});
  const auto run = [&](std::int64_t first, std::int64_t count) {
    const auto part = [&](const at::Tensor& t) { return t.narrow(0, first, count); };
    at::Tensor keys = c.keys.clone();
    at::Tensor values = c.values.clone();
    return decode_attention(part(c.q), part(c.k), part(c.v),
                            {keys,
                             values,
                             {c.slots.begin() + first, c.slots.begin() + first + count},
                             {c.counts.begin() + first, c.counts.begin() + first + count}});
  };
  const at::Tensor together = run(0, 3);
  for (const int count : {1, 2, 5}) {
    const testing::WithThreads with(count);
    EXPECT_TRUE(at::equal(run(0, 3), together));
    for (std::int64_t row = 0; row < 3; ++row) {
      EXPECT_TRUE(at::equal(run(row, 1), together.narrow(0, row, 1))) << count << " threads, row " << row;
    }
  }
}

}  // namespace
}  // namespace moelora::nn
