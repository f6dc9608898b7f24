#include "nn/kernels/cuda/decode_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <tuple>

#include "moelora/nn/decode_attention.h"
#include "support/host_launcher.h"

namespace moelora::nn {
namespace {

constexpr std::int64_t kPageRows = device::kPageRows;
constexpr std::int64_t kLayers = 2;
constexpr std::int64_t kLayer = 1;

// The same rows twice: in the CPU's slots [sequences, kv_heads, capacity, d] and in pages, which lie in no order and
// hold NaN where nothing is stored.
class Stored {
 public:
  Stored(at::ScalarType dtype, std::int64_t kv_heads, std::int64_t d, std::vector<std::int64_t> counts)
      : counts(std::move(counts)), kv_heads_(kv_heads), d_(d) {
    const auto sequences = static_cast<std::int64_t>(this->counts.size());
    const auto most = *std::max_element(this->counts.begin(), this->counts.end());
    const auto of_sequence = most / kPageRows + 2;
    const auto page_elements = kLayers * 2 * kv_heads * kPageRows * d;
    slab_ = at::full({sequences * of_sequence, page_elements}, std::numeric_limits<double>::quiet_NaN()).to(dtype);
    keys = at::zeros({sequences, kv_heads, most + 1, d}).to(dtype);
    values = keys.clone();
    pages.table = at::zeros({sequences, of_sequence}, at::kLong);
    for (std::int64_t i = 0; i < pages.table.numel(); ++i) {
      const auto page = (i * 7 + 3) % pages.table.numel() == 0 ? i : pages.table.numel() - 1 - i;
      pages.table.view(-1)[i] = reinterpret_cast<std::int64_t>(slab_[page].const_data_ptr());
    }
    pages.dtype = dtype;
    pages.layer = kLayer;
    pages.kv_heads = kv_heads;
    pages.d = d;
    for (std::int64_t i = 0; i < sequences; ++i) {
      store(i);
    }
  }

  std::vector<std::int64_t> slots() const {
    std::vector<std::int64_t> all(counts.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  // Row `row` of a sequence as the pages have it: {key, value} [kv_heads, d].
  std::pair<at::Tensor, at::Tensor> row(std::int64_t sequence, std::int64_t row) const {
    const auto address = pages.table[sequence][row / kPageRows].item<std::int64_t>();
    const auto begin = reinterpret_cast<std::int64_t>(slab_.const_data_ptr());
    const auto page = (address - begin) / (slab_.stride(0) * slab_.element_size());
    const at::Tensor layer = slab_[page].view({kLayers, 2, kv_heads_, kPageRows, d_})[kLayer];
    return {layer[0].select(1, row % kPageRows), layer[1].select(1, row % kPageRows)};
  }

  at::Tensor device_counts() const { return at::tensor(counts, at::kLong).to(at::kInt); }
  std::int64_t most() const { return *std::max_element(counts.begin(), counts.end()); }

  std::vector<std::int64_t> counts;
  at::Tensor keys, values;
  kernels::PagedKeysValues pages;

 private:
  void store(std::int64_t sequence) {
    const auto count = counts[static_cast<std::size_t>(sequence)];
    if (count == 0) {
      return;
    }
    const at::Tensor both = at::randn({count, kv_heads_, 2 * d_}).to(pages.dtype);
    const at::Tensor k = both.narrow(2, 0, d_);
    const at::Tensor v = both.narrow(2, d_, d_);
    keys[sequence].narrow(1, 0, count).copy_(k.transpose(0, 1));
    values[sequence].narrow(1, 0, count).copy_(v.transpose(0, 1));
    kernels::store_rows(pages, k, v, at::arange(count) + sequence * pages.table.size(1) * kPageRows);
  }

  std::int64_t kv_heads_, d_;
  at::Tensor slab_;
};

using Case = std::tuple<at::ScalarType, std::int64_t, std::int64_t, std::int64_t>;  // dtype, heads, kv_heads, d

class PagedDecodeAttention : public ::testing::TestWithParam<Case> {
 protected:
  const testing::HostKernels kernels_;
};

// Against the CPU's kernel, with lengths at the boundaries of pages and splits; the new row is stored too.
TEST_P(PagedDecodeAttention, EqualsTheCpu) {
  const auto [dtype, heads, kv_heads, d] = GetParam();
  at::manual_seed(1);
  const double tolerance = dtype == at::kFloat ? 3e-6 : dtype == at::kHalf ? 2e-3 : 2e-2;
  for (const std::vector<std::int64_t>& counts :
       {std::vector<std::int64_t>{0}, {5}, {63, 64, 65}, {127, 0, 128, 129, 191, 192, 1, 300}}) {
    Stored stored(dtype, kv_heads, d, counts);
    const auto rows = static_cast<std::int64_t>(counts.size());
    const at::Tensor q = at::randn({rows, heads, 3 * d}).to(dtype).narrow(2, 0, d);
    const at::Tensor k = at::randn({rows, kv_heads, 3 * d}).to(dtype).narrow(2, d, d);
    const at::Tensor v = at::randn({rows, kv_heads, 3 * d}).to(dtype).narrow(2, 2 * d, d);
    const at::Tensor expected = decode_attention(q, k, v, {stored.keys, stored.values, stored.slots(), counts});
    const at::Tensor found = kernels::decode_attention(stored.pages, stored.device_counts(), stored.most(), q, k, v);
    EXPECT_EQ(found.scalar_type(), dtype);
    EXPECT_LT((found.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>(), tolerance);
    for (std::int64_t i = 0; i < rows; ++i) {
      const auto [key, value] = stored.row(i, counts[static_cast<std::size_t>(i)]);
      EXPECT_TRUE(at::equal(key, k[i])) << "sequence " << i;
      EXPECT_TRUE(at::equal(value, v[i])) << "sequence " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, PagedDecodeAttention,
                         ::testing::Values(Case{at::kFloat, 4, 4, 8}, Case{at::kFloat, 6, 2, 20},
                                           Case{at::kFloat, 2, 1, 96}, Case{at::kFloat, 2, 2, 256},
                                           Case{at::kHalf, 2, 2, 128}, Case{at::kHalf, 6, 1, 64},
                                           Case{at::kBFloat16, 4, 2, 128}));

// What the CPU does in two steps: rotated_in_float, then attention; keys are rounded as they are stored.
TEST(PagedDecodeAttention, TurnsQueriesAndKeysAsItReadsThem) {
  const testing::HostKernels host;
  at::manual_seed(2);
  const std::int64_t heads = 2, d = 16;
  for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    for (const RotaryPairing pairing : {RotaryPairing::half, RotaryPairing::interleaved, RotaryPairing::two_axes}) {
      for (const std::int64_t columns : {d, d / 2}) {
        Stored stored(dtype, heads, d, {70, 3});
        const at::Tensor positions = at::tensor({70, 3, 11, 5}, at::kLong).view({2, 2});
        const bool two = pairing == RotaryPairing::two_axes;
        const Rotary rotary = make_rotary(two ? positions : positions.narrow(0, 0, 1),
                                          rotary_frequencies(two ? columns / 2 : columns), pairing, at::kFloat);
        const at::Tensor mixed = at::randn({2, heads, 3 * d}).to(dtype);
        const at::Tensor q = mixed.narrow(2, 0, d);
        const at::Tensor k = mixed.narrow(2, d, d);
        const at::Tensor v = mixed.narrow(2, 2 * d, d);
        const at::Tensor turned = rotated_in_float(k, rotary);
        const at::Tensor expected = decode_attention(rotated_in_float(q, rotary), turned, v,
                                                     {stored.keys, stored.values, stored.slots(), stored.counts});
        const at::Tensor found =
            kernels::decode_attention(stored.pages, stored.device_counts(), stored.most(), q, k, v, rotary);
        const double tolerance = dtype == at::kFloat ? 1e-5 : 2e-3;
        EXPECT_LT((found.to(at::kFloat) - expected.to(at::kFloat)).abs().max().item<double>(), tolerance);
        EXPECT_TRUE(at::allclose(stored.row(0, 70).first.to(at::kFloat), turned[0], tolerance, tolerance));
      }
    }
  }
}

// A row's bits depend neither on the other rows nor on how many splits were started.
TEST(PagedDecodeAttention, ARowsResultDependsOnNothingElse) {
  const testing::HostKernels host;
  at::manual_seed(3);
  Stored stored(at::kFloat, 2, 32, {10, 127, 200});
  const at::Tensor q = at::randn({3, 2, 32}), k = at::randn({3, 2, 32}), v = at::randn({3, 2, 32});
  const at::Tensor counts = stored.device_counts();
  const at::Tensor together = kernels::decode_attention(stored.pages, counts, 200, q, k, v);
  for (std::int64_t row = 0; row < 3; ++row) {
    kernels::PagedKeysValues own = stored.pages;
    own.table = stored.pages.table.narrow(0, row, 1);
    for (const std::int64_t most : {stored.counts[static_cast<std::size_t>(row)], std::int64_t{250}}) {
      const at::Tensor alone = kernels::decode_attention(own, counts.narrow(0, row, 1), most, q.narrow(0, row, 1),
                                                         k.narrow(0, row, 1), v.narrow(0, row, 1));
      EXPECT_TRUE(at::equal(alone, together.narrow(0, row, 1))) << "row " << row << " most " << most;
    }
  }
}

TEST(PagedDecodeAttention, LargeScoresDoNotOverflow) {
  const testing::HostKernels host;
  at::manual_seed(4);
  Stored stored(at::kFloat, 1, 32, {150});
  const at::Tensor q = at::randn({1, 1, 32}) * 1000.0, k = at::randn({1, 1, 32}), v = at::randn({1, 1, 32});
  const at::Tensor expected = decode_attention(q, k, v, {stored.keys, stored.values, {0}, {150}});
  const at::Tensor found = kernels::decode_attention(stored.pages, stored.device_counts(), 150, q, k, v);
  EXPECT_TRUE(at::allclose(found, expected, 1e-3, 1e-3));
}

// One prefix for all sequences: its rows are stored for each of them.
TEST(StoreRows, RepeatItsSource) {
  const testing::HostKernels host;
  at::manual_seed(5);
  const Stored stored(at::kHalf, 2, 10, {0, 0});
  const at::Tensor k = at::randn({3, 2, 10}).to(at::kHalf), v = at::randn({3, 2, 10}).to(at::kHalf);
  const auto of_sequence = stored.pages.table.size(1) * kPageRows;
  const at::Tensor first = at::arange(62, 65);  // across two pages
  kernels::store_rows(stored.pages, k, v, at::cat({first, first + of_sequence}));
  for (std::int64_t sequence = 0; sequence < 2; ++sequence) {
    for (std::int64_t i = 0; i < 3; ++i) {
      const auto [key, value] = stored.row(sequence, 62 + i);
      EXPECT_TRUE(at::equal(key, k[i]));
      EXPECT_TRUE(at::equal(value, v[i]));
    }
  }
}

TEST(TakesHeadWidth, SaysWhatLanesCanHold) {
  for (const std::int64_t d : {1, 4, 20, 32, 34, 64, 80, 96, 128, 160, 256}) {
    EXPECT_TRUE(kernels::takes_head_width(d)) << d;
  }
  for (const std::int64_t d : {33, 66, 132, 264}) {
    EXPECT_FALSE(kernels::takes_head_width(d)) << d;
  }
}

}  // namespace
}  // namespace moelora::nn
