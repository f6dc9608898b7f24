// The pretend device's stand-ins for attention kernels that only CUDA has, against plain attention with autograd.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>

#include "support/pretend_device/pretend_device.h"

namespace moelora {
namespace {

namespace pretend = testing::pretend;

struct Lengths {
  std::vector<std::int64_t> queries, keys;
  std::int64_t mask;
};

at::Tensor starts(const std::vector<std::int64_t>& lengths, const at::Device& device) {
  return at::constant_pad_nd(at::tensor(lengths, at::kLong).cumsum(0), {1, 0}).to(device, at::kInt);
}

/// One sequence on the CPU; q [queries, heads, width], k and v [keys, heads, width].
at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale,
                           std::int64_t mask) {
  at::Tensor s = at::einsum("qhd,khd->hqk", {q, k}) * scale;
  if (mask != 0) {
    const std::int64_t shift = mask == 2 ? k.size(0) - q.size(0) : 0;
    s = s.masked_fill(at::ones({q.size(0), k.size(0)}, at::kBool).triu(shift + 1), -INFINITY);
  }
  return at::einsum("hqk,khd->qhd", {s.softmax(-1), v});
}

class PretendAttention : public ::testing::TestWithParam<Lengths> {};

TEST_P(PretendAttention, EqualsPlainAttention) {
  const at::Device device = pretend::install();
  const auto& [queries, keys, mask] = GetParam();
  const std::int64_t rows_q = at::tensor(queries).sum().item<std::int64_t>();
  const std::int64_t rows_k = at::tensor(keys).sum().item<std::int64_t>();
  const std::int64_t most_q = *std::max_element(queries.begin(), queries.end());
  const std::int64_t most_k = *std::max_element(keys.begin(), keys.end());
  at::manual_seed(3);
  const at::Tensor q = at::randn({rows_q, 2, 8}).requires_grad_(), k = at::randn({rows_k, 2, 8}).requires_grad_(),
                   v = at::randn({rows_k, 2, 8}).requires_grad_(), dy = at::randn({rows_q, 2, 8});
  std::vector<at::Tensor> expected;
  std::int64_t from_q = 0, from_k = 0;
  for (std::size_t s = 0; s < queries.size(); from_q += queries[s], from_k += keys[s], ++s) {
    expected.push_back(plain_attention(q.slice(0, from_q, from_q + queries[s]), k.slice(0, from_k, from_k + keys[s]),
                                       v.slice(0, from_k, from_k + keys[s]), 0.3, mask));
  }
  const at::Tensor y = at::cat(expected);
  const auto slopes = torch::autograd::grad({y}, {q, k, v}, {dy});

  const auto on_device = [&](const at::Tensor& x) { return x.detach().to(device).unsqueeze(0); };
  const at::Tensor q1 = on_device(q), k1 = on_device(k), v1 = on_device(v), dy1 = on_device(dy);
  const at::Tensor starts_q = starts(queries, device), starts_k = starts(keys, device);
  pretend::reset();
  const auto [out, logsumexp, seed, offset, unused_q, unused_k] = at::_efficient_attention_forward(
      q1, k1, v1, {}, starts_q, starts_k, most_q, most_k, 0.0, mask, /*compute_log_sumexp=*/true, 0.3);
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dy1, q1, k1, v1, {}, out, starts_q, starts_k, most_q, most_k, logsumexp, 0.0, seed, offset, mask, false, 0.3);
  const auto counted = pretend::counters();
  EXPECT_EQ(counted.operators, 2) << counted.to_text();
  EXPECT_EQ(counted.waits, 0) << counted.to_text();
  EXPECT_EQ(logsumexp.sizes(), at::IntArrayRef({static_cast<std::int64_t>(queries.size()), 2, 32}));
  EXPECT_TRUE(at::allclose(out.cpu()[0], y.detach(), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(dq.cpu()[0], slopes[0], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(dk.cpu()[0], slopes[1], 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(dv.cpu()[0], slopes[2], 1e-4, 1e-5));
}

INSTANTIATE_TEST_SUITE_P(Masks, PretendAttention,
                         ::testing::Values(Lengths{{3, 1, 5}, {3, 1, 5}, 0}, Lengths{{3, 1, 5}, {3, 1, 5}, 1},
                                           Lengths{{2, 1, 3}, {5, 4, 3}, 2}, Lengths{{2, 0, 3}, {5, 4, 3}, 0}));

TEST(PretendAttention, RefusesWhatCudaRefuses) {
  const at::Device device = pretend::install();
  const at::Tensor x = at::ones({1, 4, 2, 8}, device);
  const auto run = [&](const at::Tensor& starts) {
    at::_efficient_attention_forward(x, x, x, {}, starts, starts, 4, 4, 0.0, 0);
  };
  EXPECT_ANY_THROW(run(at::tensor({0, 4}, at::kInt)));              // on the CPU
  EXPECT_ANY_THROW(run(at::tensor({0, 4}, at::kLong).to(device)));  // not int32
  EXPECT_NO_THROW(run(at::tensor({0, 4}, at::kInt).to(device)));
}

}  // namespace
}  // namespace moelora
