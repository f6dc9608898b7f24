// The cache in pages on the pretend device, against the CPU's slots.
#include "model/key_value_pages.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "moelora/model/kv_cache.h"
#include "support/pretend_device/pretend_device.h"

namespace moelora::model {
namespace {

namespace pretend = testing::pretend;

constexpr std::int64_t kPagedHeads = 4;
constexpr std::int64_t kPagedHeadDim = 8;
constexpr std::int64_t kLayers = 2;

ModelShape paged_shape(std::int64_t kv_heads) {
  return {kLayers, kPagedHeads, kv_heads, kPagedHeadDim, kPagedHeads * kPagedHeadDim, 10, 300};
}

// The same rows for both caches.
class Twins {
 public:
  Twins(std::int64_t kv_heads, at::ScalarType dtype, std::int64_t sequences, bool with_prefix)
      : kv_heads_(kv_heads),
        dtype_(dtype),
        slots(paged_shape(kv_heads), sequences, 8, dtype, at::kCPU),
        pages(paged_shape(kv_heads), sequences, 8, dtype, pretend::install()) {
    if (with_prefix) {
      const std::vector<std::int64_t> own{sequences, 5, kv_heads, kPagedHeadDim};
      prefix_ = {at::randn(own).to(dtype), at::randn(own).to(dtype)};
    }
  }

  void prompt(const nn::Segments& segments) {
    const nn::RowContext here = nn::RowContext::plain(segments);
    const auto device = pretend::install();
    nn::RowContext there = nn::RowContext::plain(segments, device);
    const nn::KeyValuePrefix on_device =
        prefix_.defined() ? nn::KeyValuePrefix{prefix_.key.to(device), prefix_.value.to(device)} : nn::KeyValuePrefix{};
    if (prefix_.defined()) {
      there.set_prefix(std::vector<nn::KeyValuePrefix>(kLayers, on_device));
    }
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      draw(segments.rows());
      expect_close(pages.append_and_attend(layer, q_.to(device), k_.to(device), v_.to(device), there, on_device),
                   slots.append_and_attend(layer, q_, k_, v_, here, prefix_), "prompt");
    }
    slots.advance(segments);
    pages.advance(segments);
  }

  void step() {
    const auto device = pretend::install();
    const auto count = slots.sequences();
    const auto ones = nn::Segments::from_lengths(std::vector<std::int64_t>(static_cast<std::size_t>(count), 1));
    for (std::int64_t layer = 0; layer < kLayers; ++layer) {
      draw(count);
      const at::Tensor q = q_.to(device), k = k_.to(device), v = v_.to(device);
      pretend::reset();
      const at::Tensor found =
          layer == 0 ? pages.append_row(layer, q, k, v) : pages.append_and_attend(layer, q, k, v, ones);
      const pretend::Counters counted = pretend::counters();
      uploads += counted.uploads;
      EXPECT_EQ(counted.waits, 0);
      EXPECT_LE(counted.operators, 2);
      expect_close(found, slots.append_row(layer, q_, k_, v_), "row " + std::to_string(slots.length(0)));
    }
    slots.advance(ones);
    pages.advance(ones);
  }

  void keep(const std::vector<std::int64_t>& sequences) {
    slots.keep(sequences);
    pages.keep(sequences);
  }

 private:
  void draw(std::int64_t rows) {
    const at::Tensor mixed = at::randn({rows, kv_heads_, 2 * kPagedHeadDim}).to(dtype_);
    q_ = at::randn({rows, kPagedHeads, kPagedHeadDim}).to(dtype_);
    k_ = mixed.narrow(2, 0, kPagedHeadDim);
    v_ = mixed.narrow(2, kPagedHeadDim, kPagedHeadDim);
  }
  void expect_close(const at::Tensor& found, const at::Tensor& expected, const std::string& when) const {
    const double tolerance = dtype_ == at::kFloat ? 1e-5 : 4e-3;
    EXPECT_TRUE(at::allclose(found.cpu().to(at::kFloat), expected.to(at::kFloat), tolerance, tolerance)) << when;
  }

  std::int64_t kv_heads_;
  at::ScalarType dtype_;
  nn::KeyValuePrefix prefix_;
  at::Tensor q_, k_, v_;

 public:
  KvCache slots, pages;
  std::int64_t uploads = 0;
};

// Sequences that grow over several pages, leave, and leave their pages to others.
TEST(KeyValuePages, HoldWhatSlotsHold) {
  at::manual_seed(1);
  const at::NoGradGuard guard;
  for (const std::int64_t kv_heads : {kPagedHeads, std::int64_t{2}}) {
    for (const bool with_prefix : {false, true}) {
      Twins twins(kv_heads, with_prefix ? at::kFloat : at::kHalf, 3, with_prefix);
      EXPECT_EQ(twins.pages.capacity(), 0);
      EXPECT_FALSE(twins.pages.supports_append_row());
      twins.prompt(nn::Segments::from_lengths({4, 60, 2}, {3, 50, 1}));
      ASSERT_TRUE(twins.pages.supports_append_row());
      EXPECT_GE(twins.pages.capacity(), 64);
      for (int step = 0; step < 10; ++step) {
        twins.step();
      }
      twins.keep({2, 1});
      EXPECT_EQ(twins.pages.length(1), 70);
      for (int step = 0; step < 80; ++step) {
        twins.step();
      }
      EXPECT_EQ(twins.pages.length(0), 92);
      EXPECT_LE(twins.uploads, 3);  // when pages come, and not in between
      twins.keep({1});
      twins.step();
    }
  }
}

// What a sequence leaves behind is given out again before more memory is taken.
TEST(KeyValuePages, AreUsedAgain) {
  const at::NoGradGuard guard;
  const auto device = pretend::install();
  KeyValuePages pages(paged_shape(2), at::kFloat, device);
  pages.begin(nn::Segments::from_lengths({100, 100}), 0);
  pages.keep({1});
  const auto before = pretend::live_bytes();
  for (int row = 0; row < 150; ++row) {
    pages.reserve_next();
    pages.count_row(/*on_device=*/true);
  }
  EXPECT_EQ(pages.capacity(), 256);
  EXPECT_EQ(pretend::live_bytes(), before);
  EXPECT_EQ(pages.counts().cpu().item<int>(), 250);
  EXPECT_EQ(pages.most(), 250);
}

TEST(KeyValuePages, ServeDevicesWithKernels) {
  const auto device = pretend::install();
  EXPECT_TRUE(KeyValuePages::serve(paged_shape(2), at::kHalf, device));
  EXPECT_FALSE(KeyValuePages::serve(paged_shape(2), at::kDouble, device));
  EXPECT_FALSE(KeyValuePages::serve(paged_shape(2), at::kFloat, at::kCPU));
  ModelShape wide = paged_shape(2);
  wide.head_dim = 300;
  EXPECT_FALSE(KeyValuePages::serve(wide, at::kFloat, device));
}

}  // namespace
}  // namespace moelora::model
