#include "adapter/core/moe_lora_inference.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "moelora/adapter/moe_lora_linear.h"
#include "nn/kernels/cpu/cpu_kernels.h"

namespace moelora {
namespace {

// Without gradients few rows take the two-pass form; it must be what the reference is, for every dtype of the base.
TEST(MoeLoraInference, EqualsTheReference) {
  at::manual_seed(1);
  for (const std::int64_t experts : {1, 4}) {
    for (const bool with_bias : {false, true}) {
      MoeLoraConfig config;
      config.rank = 12;
      config.num_experts = experts;
      MoeLoraLinear delta(50, 37, config, 1, 7);
      const at::NoGradGuard guard;
      delta->A.normal_();
      delta->B.normal_();
      for (const std::int64_t sequences : {1, 3, 8}) {
        nn::RowContext context = nn::RowContext::plain(
            nn::Segments::from_lengths(std::vector<std::int64_t>(sequences, 1), std::vector<std::int64_t>(sequences)));
        if (experts > 1) {
          context.expert_weights = at::softmax(at::randn({2, sequences, experts}), 2);
        }
        const at::Tensor x = at::randn({sequences, 50});
        const at::Tensor weight = at::randn({37, 50});
        const at::Tensor bias = with_bias ? at::randn({37}) : at::Tensor();
        for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 1e-6}, {at::kHalf, 1e-3}, {at::kBFloat16, 1e-2}}) {
          const at::Tensor x_stored = x.to(dtype);
          const nn::FrozenWeight stored(weight.to(dtype));
          const at::Tensor bias_stored = with_bias ? bias.to(dtype) : bias;
          const bool served = sequences <= nn::kernels::cpu_kernels().most_rows;
          ASSERT_EQ(supports_few_rows_adapted(x_stored, stored, bias_stored, delta->A, delta->B), served);
          if (!served) {
            continue;
          }
          const at::Tensor fast = delta->forward(x_stored, stored, bias_stored, context);
          EXPECT_EQ(fast.scalar_type(), dtype);
          const nn::FrozenWeight widened(weight.to(dtype).to(at::kFloat));
          const at::Tensor exact = delta->forward_reference(x_stored.to(at::kFloat), widened,
                                                            with_bias ? bias_stored.to(at::kFloat) : bias, context);
          EXPECT_LE((fast.to(at::kFloat) - exact).abs().max().item<double>(),
                    tolerance * exact.abs().max().item<double>())
              << experts << " experts, " << sequences << " sequences, " << dtype;
        }
      }
    }
  }
}

TEST(MoeLoraInference, GradientsAndDropoutTakeTheOtherWay) {
  MoeLoraConfig config;
  config.num_experts = 1;
  config.dropout = 0.5;
  MoeLoraLinear delta(64, 8, config, 0, 7);
  const nn::FrozenWeight weight(at::randn({8, 64}));
  const at::Tensor x = at::randn({2, 64});
  EXPECT_FALSE(supports_few_rows_adapted(x, weight, {}, delta->A, delta->B));
  delta->A.set_requires_grad(false);
  delta->B.set_requires_grad(false);
  EXPECT_TRUE(supports_few_rows_adapted(x, weight, {}, delta->A, delta->B));
  const at::Tensor omega = at::ones({1, 2, 1}).set_requires_grad(true);  // as when a gate alone is trained
  EXPECT_FALSE(supports_few_rows_adapted(x, weight, {}, delta->A, delta->B, omega));
  const at::NoGradGuard guard;
  EXPECT_TRUE(supports_few_rows_adapted(x, weight, {}, delta->A, delta->B, omega));
  delta->A.normal_();
  delta->B.normal_();
  nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths({2}, {2}));
  context.dropout = {5, {10}};
  const at::Tensor dropped = delta->forward(x, weight, {}, context);
  EXPECT_TRUE(at::allclose(dropped, delta->forward_reference(x, weight, {}, context), 1e-4, 1e-3));
  context.dropout = {};
  EXPECT_FALSE(at::allclose(dropped, delta->forward(x, weight, {}, context), 1e-4, 1e-3));
}

}  // namespace
}  // namespace moelora
