#include "moelora/adapter/moe_lora_linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "moelora/io/error.h"

namespace moelora {
namespace {

struct Case {
  std::int64_t experts;
  double dropout;
};

class MoeLoraLinearCase : public ::testing::TestWithParam<Case> {
 protected:
  MoeLoraLinearCase() {
    config.rank = 8;
    config.num_experts = GetParam().experts;
    config.dropout = GetParam().dropout;
    delta = MoeLoraLinear(12, 9, config, 0, 77);
    at::NoGradGuard guard;
    delta->A.normal_();
    delta->B.normal_();
    context = nn::RowContext::plain(nn::Segments::from_lengths({3, 4}, {2, 1}));
    context.dropout = {5, {10, 11}};
    if (config.num_experts > 1) {
      omega = at::softmax(at::randn({1, 2, config.num_experts}), 2).set_requires_grad(true);
      context.expert_weights = omega;
    }
  }
  MoeLoraConfig config;
  MoeLoraLinear delta{nullptr};
  nn::RowContext context;
  at::Tensor omega;
  at::Tensor x = at::randn({7, 12}).set_requires_grad(true);
  at::Tensor weight = at::randn({9, 12});
  at::Tensor bias = at::randn({9});
};

TEST_P(MoeLoraLinearCase, FrozenMatricesChangeNoOtherGradient) {
  std::vector<at::Tensor> inputs{x};
  if (omega.defined()) {
    inputs.push_back(omega);
  }
  const at::Tensor probe = at::randn({7, 9});
  const auto gradients = [&] {
    const at::Tensor y = delta->forward(x, nn::FrozenWeight(weight), bias, context);
    return torch::autograd::grad({(y * probe).sum()}, inputs);
  };
  const auto trained = gradients();
  delta->A.set_requires_grad(false);
  delta->B.set_requires_grad(false);
  const auto frozen = gradients();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_TRUE(at::equal(frozen[i], trained[i])) << "input " << i;
  }
}

TEST_P(MoeLoraLinearCase, EqualsPlainOperationsWithGradients) {
  std::vector<at::Tensor> inputs{x, delta->A, delta->B};
  if (omega.defined()) {
    inputs.push_back(omega);
  }
  const at::Tensor probe = at::randn({7, 9});
  const at::Tensor fast = delta->forward(x, nn::FrozenWeight(weight), bias, context);
  const at::Tensor slow = delta->forward_reference(x, nn::FrozenWeight(weight), bias, context);
  EXPECT_LE((fast - slow).abs().max().item<float>(), 1e-4);
  const auto fast_gradients = torch::autograd::grad({(fast * probe).sum()}, inputs);
  const auto slow_gradients = torch::autograd::grad({(slow * probe).sum()}, inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_LE((fast_gradients[i] - slow_gradients[i]).abs().max().item<float>(),
              1e-5f * slow_gradients[i].abs().max().item<float>() + 1e-6f)
        << "input " << i;
  }
}

TEST_P(MoeLoraLinearCase, IsTheSumOverExperts) {
  context.dropout = {};
  const at::Tensor y = delta->forward(x, nn::FrozenWeight(weight), bias, context);
  const auto width = config.rank / config.num_experts;
  at::Tensor expected = at::linear(x, weight, bias);
  for (std::int64_t i = 0; i < config.num_experts; ++i) {
    const at::Tensor a = delta->A.narrow(0, i * width, width);
    const at::Tensor b = delta->B.narrow(1, i * width, width);
    at::Tensor update = at::linear(at::linear(x, a), b) * config.scaling();
    if (omega.defined()) {
      update = update * omega[0].select(1, i).index_select(0, context.segment_of_row).unsqueeze(1);
    }
    expected = expected + update;
  }
  EXPECT_LE((y - expected).abs().max().item<float>(), 1e-4);
}

TEST_P(MoeLoraLinearCase, LowRankIsTheSameUpdate) {
  context.dropout = {};
  const at::Tensor y = delta->forward(x, nn::FrozenWeight(weight), bias, context);
  for (std::int64_t segment = 0; segment < 2; ++segment) {
    const nn::LowRank update = delta->low_rank(omega.defined() ? omega.select(1, segment) : at::Tensor()).update();
    const at::Tensor merged = at::linear(x, weight + at::mm(update.B, update.A), bias);
    const auto begin = context.segments.offsets[segment];
    const auto length = context.segments.length(segment);
    EXPECT_LE((y - merged).narrow(0, begin, length).abs().max().item<float>(), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, MoeLoraLinearCase,
                         ::testing::Values(Case{1, 0.0}, Case{1, 0.3}, Case{4, 0.0}, Case{4, 0.3}, Case{8, 0.1}));

TEST(MoeLoraLinear, AContextWithoutWeightsIsAnError) {
  MoeLoraConfig config;
  MoeLoraLinear delta(12, 9, config, 0, 1);
  const nn::RowContext plain = nn::RowContext::plain(nn::Segments::from_lengths({2}, {2}));
  EXPECT_THROW(delta->forward(at::randn({2, 12}), nn::FrozenWeight(at::randn({9, 12})), {}, plain), Error);
}

TEST(MoeLoraLinear, ATrainedBaseWeightGetsItsGradientToo) {
  MoeLoraConfig config;
  config.num_experts = 1;
  MoeLoraLinear delta(12, 9, config, 0, 1);
  const at::Tensor weight = at::randn({9, 12}).set_requires_grad(true);
  const nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths({2}, {2}));
  delta->forward(at::randn({2, 12}), nn::FrozenWeight(weight), {}, context).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_TRUE(delta->B.grad().defined());
}

}  // namespace
}  // namespace moelora
