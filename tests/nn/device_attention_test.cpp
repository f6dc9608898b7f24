#include "nn/device_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/pretend_device/pretend_device.h"

namespace moelora::nn {
namespace {

namespace pretend = testing::pretend;

struct Batch {
  const char* name;
  std::vector<std::int64_t> lengths, bidirectional;
  Segments segments() const { return Segments::from_lengths(lengths, bidirectional); }
};

class DeviceAttention : public ::testing::TestWithParam<Batch> {
 protected:
  struct Gradients {
    at::Tensor output, dq, dk, dv;
    KeyValuePrefix prefix;
  };
  // Forward and backward with q, k and v in one tensor, as a fused linear leaves them.
  static Gradients run(const at::Tensor& packed, const at::Tensor& dy, std::int64_t kv_heads, const AttentionRows& rows,
                       const at::Tensor& output_rows, const KeyValuePrefix& prefix = {}) {
    const auto heads = packed.size(1) - 2 * kv_heads;
    const auto part = [&](const at::Tensor& x, std::int64_t first, std::int64_t count) {
      return x.narrow(1, first, count);
    };
    const auto q = part(packed, 0, heads), k = part(packed, heads, kv_heads),
               v = part(packed, heads + kv_heads, kv_heads);
    const at::Tensor gradients = at::empty_like(packed);
    const auto dq = part(gradients, 0, heads), dk = part(gradients, heads, kv_heads),
               dv = part(gradients, heads + kv_heads, kv_heads);
    const AttentionResult result = attention_forward(q, k, v, rows, output_rows, prefix);
    Gradients found{result.output, dq, dk, dv, {}};
    if (prefix.defined()) {
      found.prefix = attention_backward(dy, q, k, v, result, rows, output_rows, prefix, dq, dk, dv);
    } else {
      attention_backward(dy, q, k, v, result, rows, output_rows, dq, dk, dv);
    }
    return found;
  }

  static void expect_close(const at::Tensor& found, const at::Tensor& expected, const char* what) {
    const double off = (found.cpu().to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
    EXPECT_LE(off, found.scalar_type() == at::kFloat ? 2e-6 : 4e-3) << what;
  }
  static void expect_equal(const Gradients& found, const Gradients& expected) {
    expect_close(found.output, expected.output, "output");
    expect_close(found.dq, expected.dq, "dq");
    expect_close(found.dk, expected.dk, "dk");
    expect_close(found.dv, expected.dv, "dv");
  }

  // The same numbers whichever tests run beside: the bounds are a few roundings of sums of about 1.
  void SetUp() override { at::manual_seed(1); }

  const at::Device device_ = pretend::install();
};

TEST_P(DeviceAttention, EqualsTheCpu) {
  const Segments segments = GetParam().segments();
  const RowContext context = RowContext::plain(segments, device_);
  for (const auto type : {at::kFloat, at::kHalf}) {
    for (const std::int64_t kv_heads : {4, 2}) {
      const at::Tensor packed = at::randn({segments.rows(), 4 + 2 * kv_heads, 8}).to(type);
      const at::Tensor dy = at::randn({segments.rows(), 4, 8}).to(type);
      expect_equal(run(packed.to(device_), dy.to(device_), kv_heads, context, {}),
                   run(packed.to(at::kFloat), dy.to(at::kFloat), kv_heads, segments, {}));
    }
  }
}

// A segment without causal rows keeps flash attention away from the second call.
TEST_P(DeviceAttention, ByFlashGivesTheSame) {
  const Segments segments = GetParam().segments();
  const RowContext context = RowContext::plain(segments, device_);
  const at::Tensor packed = at::randn({segments.rows(), 12, 8}).to(at::kHalf);
  const at::Tensor dy = at::randn({segments.rows(), 4, 8}).to(at::kHalf);
  const at::Tensor there = packed.to(device_), dy_there = dy.to(device_);
  choose_attention_kernels(AttentionKernels::flash);
  pretend::reset();
  const Gradients found = run(there, dy_there, 4, context, {});
  const auto counted = pretend::counters();
  choose_attention_kernels(AttentionKernels::automatic);
  expect_equal(found, run(packed.to(at::kFloat), dy.to(at::kFloat), 4, segments, {}));
  EXPECT_TRUE(counted.by_operator.contains("_flash_attention_backward")) << counted.to_text();
  EXPECT_EQ(counted.by_operator.contains("_efficient_attention_backward"), GetParam().name == std::string("mixed"));
}

TEST_P(DeviceAttention, GivesWantedRowsOnly) {
  const Segments segments = GetParam().segments();
  const RowContext context = RowContext::plain(segments, device_);
  const at::Tensor rows = at::tensor({std::int64_t{0}, segments.rows() / 2, segments.rows() - 1}, at::kLong);
  const at::Tensor packed = at::randn({segments.rows(), 12, 8});
  const at::Tensor dy = at::randn({3, 4, 8});
  expect_equal(run(packed.to(device_), dy.to(device_), 4, context, rows.to(device_)),
               run(packed, dy, 4, segments, rows));
}

// Behind a prefix, and still no wait and no upload in the layer.
TEST_P(DeviceAttention, SeesAPrefix) {
  const Segments segments = GetParam().segments();
  RowContext context = RowContext::plain(segments, device_);
  const at::Tensor packed = at::randn({segments.rows(), 12, 8});
  const at::Tensor dy = at::randn({segments.rows(), 4, 8});
  for (const bool own : {false, true}) {
    const at::Tensor key = own ? at::randn({segments.count(), 3, 4, 8}) : at::randn({3, 4, 8});
    const KeyValuePrefix prefix{key, at::randn_like(key)}, moved{key.to(device_), prefix.value.to(device_)};
    context.set_prefix({moved});
    const at::Tensor there = packed.to(device_), dy_there = dy.to(device_);
    pretend::reset();
    const Gradients found = run(there, dy_there, 4, context, {}, moved);
    EXPECT_EQ(pretend::counters().waits + pretend::counters().uploads, 0) << pretend::counters().to_text();
    const Gradients expected = run(packed, dy, 4, segments, {}, prefix);
    expect_equal(found, expected);
    expect_close(found.prefix.key, expected.prefix.key, "key");
    expect_close(found.prefix.value, expected.prefix.value, "value");
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, DeviceAttention,
                         ::testing::Values(Batch{"mixed", {7, 3, 5, 1, 40}, {4, 3, 0, 0, 39}},
                                           Batch{"causal", {6, 1, 4}, {0, 0, 0}},
                                           Batch{"bidirectional", {6, 1, 4}, {6, 1, 4}}, Batch{"single", {9}, {5}}),
                         [](const auto& info) { return std::string(info.param.name); });

std::map<std::string, std::int64_t> operators_of(std::int64_t count, bool gradients) {
  const at::Device device = pretend::install();
  const Segments segments = Segments::from_lengths(std::vector<std::int64_t>(static_cast<std::size_t>(count), 5),
                                                   std::vector<std::int64_t>(static_cast<std::size_t>(count), 3));
  const RowContext context = RowContext::plain(segments, device);
  const at::Tensor qkv = at::randn({segments.rows(), 2, 24}).to(device);
  const auto q = qkv.narrow(2, 0, 8), k = qkv.narrow(2, 8, 8), v = qkv.narrow(2, 16, 8);
  const at::Tensor dqkv = at::empty_like(qkv);
  pretend::reset();
  const AttentionResult result = attention_forward(q, k, v, context);
  if (gradients) {
    pretend::reset();
    attention_backward(result.output, q, k, v, result, context, {}, dqkv.narrow(2, 0, 8), dqkv.narrow(2, 8, 8),
                       dqkv.narrow(2, 16, 8));
  }
  EXPECT_EQ(pretend::counters().waits + pretend::counters().uploads, 0) << pretend::counters().to_text();
  return pretend::counters().by_operator;
}

std::int64_t sum_of(const std::map<std::string, std::int64_t>& counts) {
  std::int64_t sum = 0;
  for (const auto& [name, count] : counts) {
    sum += count;
  }
  return sum;
}

TEST(DeviceAttentionOperators, AreAsManyWhateverTheNumberOfSegments) {
  const auto forward = operators_of(1, false), backward = operators_of(1, true);
  EXPECT_EQ(sum_of(forward), 4);   // two calls, queries gathered, results put back
  EXPECT_EQ(sum_of(backward), 5);  // two calls, queries and gradients gathered, gradients joined
  EXPECT_EQ(operators_of(60, false), forward);
  EXPECT_EQ(operators_of(60, true), backward);
}

TEST(DeviceAttentionOperators, UploadsTablesWhereOnlyBoundariesAreGiven) {
  const at::Device device = pretend::install();
  const Segments segments = Segments::from_lengths({5, 4}, {2, 0});
  const at::Tensor x = at::randn({9, 2, 8});
  const at::Tensor expected = attention_forward(x, x, x, segments).output;
  const at::Tensor there = x.to(device);
  pretend::reset();
  const at::Tensor found = attention_forward(there, there, there, segments).output;
  EXPECT_EQ(pretend::counters().uploads, 1) << pretend::counters().to_text();
  EXPECT_LE((found.cpu() - expected).abs().max().item<double>(), 2e-6);
}

// Heads that the kernels don't take (not a multiple of 16 bytes) go block by block.
TEST(DeviceAttentionOperators, TakeOddHeadsBlockByBlock) {
  const at::Device device = pretend::install();
  const Segments segments = Segments::from_lengths({5, 4}, {2, 0});
  const at::Tensor x = at::randn({9, 2, 6});
  const at::Tensor there = x.to(device);
  EXPECT_FALSE(has_device_attention(there, there, there));
  EXPECT_FALSE(has_device_attention(x, x, x));
  const at::Tensor found = attention_forward(there, there, there, RowContext::plain(segments, device)).output;
  EXPECT_LE((found.cpu() - attention_forward(x, x, x, segments).output).abs().max().item<double>(), 2e-6);
}

}  // namespace
}  // namespace moelora::nn
