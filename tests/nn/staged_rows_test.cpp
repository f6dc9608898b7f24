#include "nn/staged_rows.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "moelora/nn/linears_together.h"
#include "moelora/nn/swiglu.h"
#include "support/with_threads.h"

namespace moelora::nn {
namespace {

constexpr std::int64_t kQueryHeads = 6;
constexpr std::int64_t kKeyHeads = 2;
constexpr std::int64_t kHeadWidth = 64;
constexpr std::int64_t kOuter = 96;
constexpr std::int64_t kInner = 640;

// What a block has, large enough for several threads.
struct Parts {
  Linear q{at::randn({kQueryHeads * kHeadWidth, kOuter}), at::randn({kQueryHeads * kHeadWidth})};
  Linear k{at::randn({kKeyHeads * kHeadWidth, kOuter})};
  Linear v{at::randn({kKeyHeads * kHeadWidth, kOuter})};
  Linear o{at::randn({kOuter, kQueryHeads* kHeadWidth})};
  Linear gate_and_up{at::randn({2 * kInner, kOuter})};
  Linear down{at::randn({kOuter, kInner})};
  RmsNorm before{at::randn({kOuter}), 1e-5};
  RmsNorm after{at::randn({kOuter}), 1e-6};
  RmsNorm of_heads{at::randn({kHeadWidth}), 1e-6};
};

CachedSequences cached_sequences(std::int64_t rows) {
  CachedSequences cached{
      at::randn({rows + 1, kKeyHeads, 150, kHeadWidth}), at::randn({rows + 1, kKeyHeads, 150, kHeadWidth}), {}, {}};
  for (std::int64_t row = 0; row < rows; ++row) {
    cached.slots.push_back(rows - row);
    cached.counts.push_back(row % 3 == 0 ? 0 : 17 * row);
  }
  return cached;
}

Rotary rotary_of(std::int64_t rows, RotaryPairing pairing, std::int64_t d) {
  const at::Tensor positions = at::arange(3, rows + 3).unsqueeze(0);
  return pairing == RotaryPairing::two_axes
             ? make_rotary(at::cat({positions, positions + 5}), rotary_frequencies(d / 2), pairing, at::kFloat)
             : make_rotary(positions, rotary_frequencies(d), pairing, at::kFloat);
}

constexpr std::int64_t kBlocks = 3;

// A few blocks, each of which appends to the same cache: what one leaves there the next one reads over.
at::Tensor by_tensors(Parts& parts, const at::Tensor& x, const CachedSequences& cached, const Rotary& rotary) {
  const auto rows = x.size(0);
  const RowContext context = RowContext::plain(Segments::from_lengths({rows}));
  const auto heads = [&](const at::Tensor& of) { return of.view({rows, -1, kHeadWidth}); };
  at::Tensor residual = x;
  at::Tensor a = rms_norm_forward(*parts.before, x).y;
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    const auto mixed = forward_together({parts.q.get(), parts.k.get(), parts.v.get()}, a, context);
    const at::Tensor q = rms_norm_forward(*parts.of_heads, mixed[0].view({-1, kHeadWidth})).y;
    const at::Tensor attended = decode_attention(rotated_in_float(heads(q), rotary),
                                                 rotated_in_float(heads(mixed[1]), rotary), heads(mixed[2]), cached);
    at::Tensor sum = parts.o->forward(attended.view({rows, kQueryHeads * kHeadWidth}), context);
    const at::Tensor m = add_then_rms_norm(*parts.after, sum, residual).y;
    const GateAndUp inner = gate_and_up(parts.gate_and_up->forward(m, context));
    residual = sum;
    sum = parts.down->forward(swiglu(inner.gate, inner.up), context);
    a = add_then_rms_norm(*parts.before, sum, residual).y;
    residual = sum;
  }
  return a;
}

at::Tensor by_stages(Parts& parts, const at::Tensor& x, const CachedSequences& cached, const Rotary& rotary) {
  using Rows = StagedRows::Rows;
  StagedRows staged;
  Rows residual = staged.input(x);
  Rows a = staged.rms_norm(*parts.before, residual);
  for (std::int64_t block = 0; block < kBlocks; ++block) {
    Rows attended;
    {
      const auto mixed = staged.products({parts.q.get(), parts.k.get(), parts.v.get()}, a);
      attended = staged.attention(staged.rms_norm(*parts.of_heads, mixed[0]), mixed[1], mixed[2], cached, rotary);
    }
    Rows sum = staged.products({parts.o.get()}, attended).front();
    Rows inner =
        staged.products({parts.gate_and_up.get()}, staged.add_then_rms_norm(*parts.after, sum, residual)).front();
    residual = std::exchange(sum, Rows());
    inner = staged.swiglu(inner.columns(0, kInner), inner.columns(kInner, kInner));
    sum = staged.products({parts.down.get()}, inner).front();
    a = staged.add_then_rms_norm(*parts.before, sum, residual);
    residual = std::exchange(sum, Rows());
  }
  return staged.compute(a);
}

TEST(StagedRows, EqualTheOperationsOnTensorsBitForBit) {
  at::NoGradGuard no_grad;
  at::manual_seed(1);
  Parts parts;
  for (const int count : {1, 2, 5}) {
    const testing::WithThreads with(count);
    for (const std::int64_t rows : {1, 2, 7}) {
      if (!StagedRows::takes(*parts.q, rows)) {
        continue;  // the plain kernels take two rows
      }
      for (const auto& [pairing, d] : {std::pair{RotaryPairing::half, kHeadWidth},
                                       {RotaryPairing::half, kHeadWidth / 2},
                                       {RotaryPairing::interleaved, kHeadWidth / 2},
                                       {RotaryPairing::two_axes, kHeadWidth}}) {
        const at::Tensor x = at::randn({rows, kOuter});
        const at::Tensor given = x.clone();
        const Rotary rotary = rotary_of(rows, pairing, d);
        const CachedSequences cached = cached_sequences(rows);
        CachedSequences again = cached;
        again.keys = cached.keys.clone();
        again.values = cached.values.clone();
        const at::Tensor expected = by_tensors(parts, x, cached, rotary);
        const at::Tensor found = by_stages(parts, x, again, rotary);
        EXPECT_TRUE(at::equal(found, expected)) << count << " threads, " << rows << " rows, " << d << " columns turn";
        EXPECT_TRUE(at::equal(again.keys, cached.keys));
        EXPECT_TRUE(at::equal(again.values, cached.values));
        EXPECT_TRUE(at::equal(x, given)) << "the input stays as it is";
      }
    }
  }
}

class NoDelta : public LinearDelta {
 public:
  at::Tensor forward(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                     const RowContext&) override {
    return weight.forward(x, bias);
  }
};

TEST(StagedRows, TakeWhatTheyCanCompute) {
  Linear plain(at::randn({8, 16}), at::randn({8}));
  EXPECT_TRUE(StagedRows::takes(*plain, 1));
  EXPECT_FALSE(StagedRows::takes(*plain, 0));
  EXPECT_FALSE(StagedRows::takes(*plain, 1000)) << "more than a few rows";
  EXPECT_FALSE(StagedRows::takes(*Linear(at::randn({8, 16}).to(at::kHalf)), 1));
  EXPECT_FALSE(StagedRows::takes(*Linear(at::randn({8, 16}), at::randn({8}).to(at::kDouble)), 1));
  EXPECT_FALSE(StagedRows::takes(*Linear(at::randn({16, 8}).t()), 1));
  EXPECT_TRUE(StagedRows::takes(*RmsNorm(at::ones({8}), 1e-5)));
  EXPECT_FALSE(StagedRows::takes(*RmsNorm(at::ones({8}).to(at::kBFloat16), 1e-5)));
  plain->attach("adapter", std::make_shared<NoDelta>());
  EXPECT_TRUE(StagedRows::takes(*plain, 1)) << "attached, not active";
  plain->activate("adapter");
  EXPECT_FALSE(StagedRows::takes(*plain, 1));
}

}  // namespace
}  // namespace moelora::nn
