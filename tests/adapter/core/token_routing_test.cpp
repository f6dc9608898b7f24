// Routing by token (MoLoRA): a router for each linear over its own input.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "adapter/tiny_base.h"
#include "io/raises.h"
#include "moelora/adapter/adapter.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/io/error.h"
#include "moelora/nn/gelu.h"
#include "moelora/nn/linear_manual_backward.h"

namespace moelora {
namespace {

MoeLoraConfig token_config(double dropout, double balance) {
  MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.routing = Routing::token;
  config.dropout = dropout;
  config.router.balance_loss = balance;
  return config;
}

struct TokenFixture {
  MoeLoraConfig config;
  MoeLoraLinear delta{nullptr};
  nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths({3, 4}, {2, 1}));
  at::Tensor x = at::randn({7, 12}).set_requires_grad(true);
  at::Tensor weight = at::randn({9, 12});
  at::Tensor bias = at::randn({9});

  TokenFixture(double dropout, double balance) : config(token_config(dropout, balance)) {
    delta = MoeLoraLinear(12, 9, config, 0, 77);
    at::NoGradGuard guard;
    delta->A.normal_();
    delta->B.normal_();
    delta->router.normal_();
    context.dropout = {5, {10, 11}};
    context.sample_weights = at::tensor({0.25f, 0.5f});
  }
};

class TokenRouting : public ::testing::TestWithParam<std::pair<double, double>> {};

TEST_P(TokenRouting, EqualsPlainOperationsWithGradients) {
  TokenFixture f(GetParam().first, GetParam().second);
  const std::vector<at::Tensor> inputs{f.x, f.delta->A, f.delta->B, f.delta->router};
  const at::Tensor probe = at::randn({7, 9});
  const at::Tensor fast = f.delta->forward(f.x, nn::FrozenWeight(f.weight), f.bias, f.context);
  const at::Tensor slow = f.delta->forward_reference(f.x, nn::FrozenWeight(f.weight), f.bias, f.context);
  EXPECT_LE((fast - slow).abs().max().item<float>(), 1e-4);
  const auto fast_gradients = torch::autograd::grad({(fast * probe).sum()}, inputs);
  const auto slow_gradients = torch::autograd::grad({(slow * probe).sum()}, inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_LE((fast_gradients[i] - slow_gradients[i]).abs().max().item<float>(),
              1e-5f * slow_gradients[i].abs().max().item<float>() + 1e-6f)
        << "input " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(DropoutAndBalance, TokenRouting,
                         ::testing::Values(std::pair{0.0, 0.0}, std::pair{0.3, 0.0}, std::pair{0.3, 0.7}));

TEST(TokenRouting, IsTheSumOverExpertsWeighedByTheRouter) {
  TokenFixture f(0.0, 0.0);
  f.context.dropout = {};
  const at::Tensor omega = at::softmax(at::linear(f.x, f.delta->router), 1);
  at::Tensor expected = at::linear(f.x, f.weight, f.bias);
  for (std::int64_t i = 0; i < 4; ++i) {
    const at::Tensor update =
        at::linear(at::linear(f.x, f.delta->A.narrow(0, 2 * i, 2)), f.delta->B.narrow(1, 2 * i, 2));
    expected = expected + update * f.config.scaling() * omega.select(1, i).unsqueeze(1);
  }
  const at::Tensor y = f.delta->forward(f.x, nn::FrozenWeight(f.weight), f.bias, f.context);
  EXPECT_LE((y - expected).abs().max().item<float>(), 1e-4);
  // Without gradients few rows take a kernel of their own.
  at::NoGradGuard no_grad;
  const at::Tensor few = f.delta->forward(f.x.detach(), nn::FrozenWeight(f.weight), f.bias, f.context);
  EXPECT_LE((few - expected).abs().max().item<float>(), 1e-4);
}

TEST(TokenRouting, BalancingLossHasTheGradientOfItsFormula) {
  TokenFixture with(0.0, 0.7);
  const at::Tensor zero = at::zeros({7, 9});  // the cross entropy's part vanishes
  const at::Tensor y = with.delta->forward(with.x, nn::FrozenWeight(with.weight), with.bias, with.context);
  const auto found = torch::autograd::grad({(y * zero).sum()}, {with.delta->router, with.x});
  at::Tensor loss = at::zeros({});
  const at::Tensor omega = at::softmax(at::linear(with.x, with.delta->router), 1);
  for (std::int64_t s = 0; s < 2; ++s) {
    const at::Tensor rows = omega.narrow(0, with.context.segments.offsets[s], with.context.segments.length(s));
    const at::Tensor share = at::one_hot(rows.argmax(1), 4).to(at::kFloat).mean(0);
    loss = loss + with.context.sample_weights[s] * 4.0 * (share * rows.mean(0)).sum();
  }
  const auto expected = torch::autograd::grad({loss * 0.7}, {with.delta->router, with.x});
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_LE((found[i] - expected[i]).abs().max().item<float>(), 1e-6) << i;
    EXPECT_GT(expected[i].abs().max().item<float>(), 1e-4) << i;
  }
}

TEST(TokenRouting, ManualBackwardGoesThroughTheActivation) {
  TokenFixture f(0.3, 0.7);
  auto linear = nn::Linear(f.weight, f.bias);
  linear->weight.set_requires_grad(false);
  linear->bias.set_requires_grad(false);
  linear->attach("a", f.delta.ptr());
  linear->activate("a");
  const at::Tensor inner = at::randn({7, 12}).set_requires_grad(true);
  const at::Tensor dy = at::randn({7, 9});
  const at::Tensor y =
      f.delta->forward_reference(at::gelu(inner, "tanh"), nn::FrozenWeight(f.weight), f.bias, f.context);
  const auto expected = torch::autograd::grad({(y * dy).sum()}, {inner, f.delta->router, f.delta->A});
  at::NoGradGuard no_grad;
  at::Tensor tape;
  nn::manual_forward(*linear, nn::gelu(inner.detach()), f.context, tape);
  nn::DeltaGradients found;
  const at::Tensor dx = nn::manual_backward(*linear, dy, nn::GeluRows(inner.detach()), tape, f.context, true, found);
  EXPECT_LE((dx - expected[0]).abs().max().item<float>(), 1e-4);
  EXPECT_LE((found.trained[2] - expected[1]).abs().max().item<float>(), 1e-4);
  EXPECT_LE((found.trained[0] - expected[2]).abs().max().item<float>(), 1e-4);
}

TEST(TokenRouting, IsNotMergeableAndSaysSoBeforeAnythingChanges) {
  auto base = testing::tiny_base(1, 16);
  Adapter adapter = inject(*base, token_config(0.0, 0.0), TaskNames({"a", "b"}));
  const auto before = testing::copy_parameters(*base);
  try {
    merge_for_task(adapter, "a");
    FAIL() << "merging must be refused";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("NotMergeable"), std::string::npos) << error.what();
  }
  for (const auto& [name, value] : testing::copy_parameters(*base)) {
    EXPECT_TRUE(at::equal(value, before.at(name))) << name;
  }
  EXPECT_TRUE(adapter->enabled());
}

}  // namespace
}  // namespace moelora
