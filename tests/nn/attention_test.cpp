#include "moelora/nn/attention.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "moelora/io/error.h"

namespace moelora::nn {
namespace {

struct Inputs {
  at::Tensor q, k, v;
};

Inputs random_inputs(std::int64_t rows, bool gradients = false) {
  const auto make = [&] { return at::randn({rows, 4, 8}).set_requires_grad(gradients); };
  return {make(), make(), make()};
}

const Segments& mixed_segments() {
  static const Segments segments = Segments::from_lengths({7, 3, 5, 1}, {4, 3, 0, 0});
  return segments;
}

TEST(PrefixLmAttention, EqualsTheReferenceWithAMask) {
  const Inputs in = random_inputs(16);
  const at::Tensor fast = prefix_lm_attention(in.q, in.k, in.v, mixed_segments());
  const at::Tensor slow = prefix_lm_attention_reference(in.q, in.k, in.v, mixed_segments());
  EXPECT_LE((fast - slow).abs().max().item<float>(), 1e-6);
}

TEST(PrefixLmAttention, GradientsEqualTheReferences) {
  const Inputs in = random_inputs(16, true);
  const at::Tensor weight = at::randn({16, 4, 8});
  const auto gradients = [&](const at::Tensor& y) {
    return torch::autograd::grad({(y * weight).sum()}, {in.q, in.k, in.v});
  };
  const auto fast = gradients(prefix_lm_attention(in.q, in.k, in.v, mixed_segments()));
  const auto slow = gradients(prefix_lm_attention_reference(in.q, in.k, in.v, mixed_segments()));
  for (int i = 0; i < 3; ++i) {
    EXPECT_LE((fast[i] - slow[i]).abs().max().item<float>(), 1e-5) << i;
  }
}

TEST(PrefixLmAttention, SegmentsDoNotSeeEachOther) {
  const Inputs in = random_inputs(16);
  const at::Tensor all = prefix_lm_attention(in.q, in.k, in.v, mixed_segments());
  for (std::int64_t i = 0; i < mixed_segments().count(); ++i) {
    const auto begin = mixed_segments().offsets[i];
    const auto length = mixed_segments().length(i);
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, length); };
    const at::Tensor alone = prefix_lm_attention(part(in.q), part(in.k), part(in.v),
                                                 Segments::from_lengths({length}, {mixed_segments().bidirectional[i]}));
    EXPECT_LE((part(all) - alone).abs().max().item<float>(), 1e-6) << i;
  }
}

TEST(PrefixLmAttention, TargetRowsDoNotSeeLaterRows) {
  Inputs in = random_inputs(7);
  const Segments segments = Segments::from_lengths({7}, {4});
  const at::Tensor before = prefix_lm_attention(in.q, in.k, in.v, segments);
  in.k[6].fill_(9.0);
  in.v[6].fill_(9.0);
  const at::Tensor after = prefix_lm_attention(in.q, in.k, in.v, segments);
  EXPECT_TRUE(at::equal(before.narrow(0, 0, 6), after.narrow(0, 0, 6)));
  EXPECT_FALSE(at::equal(before[6], after[6]));
}

TEST(PrefixLmAttention, APrefixIsSeenByEveryRowAndGetsGradients) {
  const Inputs in = random_inputs(16);
  KeyValuePrefix prefix{at::randn({2, 4, 8}).set_requires_grad(true), at::randn({2, 4, 8}).set_requires_grad(true)};
  const at::Tensor with = prefix_lm_attention(in.q, in.k, in.v, mixed_segments(), prefix);
  const at::Tensor without = prefix_lm_attention(in.q, in.k, in.v, mixed_segments());
  EXPECT_GT((with - without).abs().amax({1, 2}).min().item<float>(), 0.0);
  const auto gradients = torch::autograd::grad({with.sum()}, {prefix.key, prefix.value});
  EXPECT_GT(gradients[1].abs().max().item<float>(), 0.0);
}

// Keys and values written out once for each query head: what grouped-query attention must equal.
Inputs with_repeated_heads(const Inputs& in) {
  const auto group = in.q.size(1) / in.k.size(1);
  return {in.q, in.k.repeat_interleave(group, 1), in.v.repeat_interleave(group, 1)};
}

class GroupedHeads : public ::testing::TestWithParam<std::int64_t> {
 protected:
  void SetUp() override {
    at::manual_seed(6);
    const auto make = [](std::int64_t heads) { return at::randn({16, heads, 8}).set_requires_grad(true); };
    in_ = {make(4), make(GetParam()), make(GetParam())};
  }
  std::vector<at::Tensor> gradients(const at::Tensor& y) {
    return torch::autograd::grad({(y * weight_).sum()}, {in_.q, in_.k, in_.v});
  }
  static double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }
  Inputs in_;
  at::Tensor weight_ = at::randn({16, 4, 8});
};

TEST_P(GroupedHeads, EqualRepeatedOnesAndSumTheirGradients) {
  const Inputs each = with_repeated_heads(in_);
  const at::Tensor shared = prefix_lm_attention(in_.q, in_.k, in_.v, mixed_segments());
  const at::Tensor repeated = prefix_lm_attention_reference(each.q, each.k, each.v, mixed_segments());
  EXPECT_LE(difference(shared, repeated), 1e-6);
  EXPECT_LE(difference(prefix_lm_attention_reference(in_.q, in_.k, in_.v, mixed_segments()), repeated), 1e-6);
  const auto found = gradients(shared);
  const auto expected = gradients(repeated);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(found[i].sizes(), expected[i].sizes());
    EXPECT_LE(difference(found[i], expected[i]), 1e-5) << i;
  }
}

TEST_P(GroupedHeads, EqualRepeatedOnesOnDevicesAndTypesWithoutAKernel) {
  const at::Tensor repeated = prefix_lm_attention(in_.q, in_.k, in_.v, mixed_segments());
  const at::Tensor y =
      prefix_lm_attention(in_.q.to(at::kDouble), in_.k.to(at::kDouble), in_.v.to(at::kDouble), mixed_segments());
  EXPECT_LE(difference(y, repeated), 1e-5);
  const auto found = gradients(y);
  const auto expected = gradients(repeated);
  for (int i = 0; i < 3; ++i) {
    EXPECT_LE(difference(found[i], expected[i]), 1e-5) << i;
  }
}

TEST_P(GroupedHeads, ManualBackwardWithOutputRowsAndAPrefix) {
  const at::Tensor rows = at::tensor({2, 6, 9, 15}, at::kLong);
  KeyValuePrefix prefix{at::randn({2, GetParam(), 8}).set_requires_grad(true),
                        at::randn({2, GetParam(), 8}).set_requires_grad(true)};
  const at::Tensor dy = at::randn({4, 4, 8});
  const at::Tensor expected =
      prefix_lm_attention_reference(in_.q, in_.k, in_.v, mixed_segments(), prefix).index_select(0, rows);
  const auto gradients =
      torch::autograd::grad({(expected * dy).sum()}, {in_.q, in_.k, in_.v, prefix.key, prefix.value});
  const AttentionResult result = attention_forward(in_.q, in_.k, in_.v, mixed_segments(), rows, prefix);
  EXPECT_LE(difference(result.output, expected), 1e-6);
  at::NoGradGuard no_grad;
  at::Tensor dq = at::empty_like(in_.q), dk = at::empty_like(in_.k), dv = at::empty_like(in_.v);
  const KeyValuePrefix dprefix =
      attention_backward(dy, in_.q, in_.k, in_.v, result, mixed_segments(), rows, prefix, dq, dk, dv);
  const std::vector<at::Tensor> found{dq, dk, dv, dprefix.key, dprefix.value};
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_LE(difference(found[i], gradients[i]), 1e-5) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Attention, GroupedHeads, ::testing::Values(1, 2));

TEST(Segments, RejectImpossibleLengths) {
  EXPECT_THROW(Segments::from_lengths({3}, {4}), Error);
  EXPECT_THROW(Segments::from_lengths({0}, {0}), Error);
  EXPECT_THROW(Segments::from_lengths({3, 2}, {1}), Error);
}

}  // namespace
}  // namespace moelora::nn
