#include "moelora/nn/attention.h"

#include <ATen/ATen.h>
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

TEST(Segments, RejectImpossibleLengths) {
  EXPECT_THROW(Segments::from_lengths({3}, {4}), Error);
  EXPECT_THROW(Segments::from_lengths({0}, {0}), Error);
  EXPECT_THROW(Segments::from_lengths({3, 2}, {1}), Error);
}

}  // namespace
}  // namespace moelora::nn
