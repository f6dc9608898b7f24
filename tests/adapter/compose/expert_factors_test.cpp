#include "moelora/adapter/expert_factors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapter/user_model.h"
#include "moelora/adapter/adapter_file.h"

namespace moelora {
namespace {

using testing::error_text;
using testing::has;

Adapter adapter_of_three(testing::UserModel& model) {
  MoeLoraConfig config = testing::user_config();
  config.rank = 6;
  config.num_experts = 3;
  config.routing = Routing::single;
  Adapter adapter = inject(*model, config, testing::user_tasks());
  testing::fill_updates(adapter);
  return adapter;
}

TEST(ExpertFactors, AreSlicesOfTheParameters) {
  testing::UserModel model;
  Adapter adapter = adapter_of_three(model);
  const auto second = expert_factors(*adapter, 1);
  ASSERT_EQ(second.size(), 2u);
  const auto& delta = *adapter->linears().front().delta;
  EXPECT_TRUE(at::equal(second[0].A, delta.tensor("A").narrow(0, 2, 2)));
  EXPECT_TRUE(at::equal(second[0].B, delta.tensor("B").narrow(1, 2, 2)));
  EXPECT_TRUE(has(error_text([&] { expert_factors(*adapter, 3); }), "no expert number 3"));
}

TEST(ExpertFactors, GradientsAreThoseOfTheExpertsTask) {
  testing::UserModel model;
  Adapter adapter = adapter_of_three(model);
  EXPECT_TRUE(has(error_text([&] { expert_gradients(*adapter, 0); }), "backward()"));
  const nn::RowContext context = adapter->context(nn::Segments::for_batch(1, 3), single_tasks({2}));
  model->forward(at::randn({1, 3, 6}), context).sum().backward();
  EXPECT_EQ(expert_gradients(*adapter, 0)[0].A.abs().max().item<float>(), 0.0f);
  EXPECT_GT(expert_gradients(*adapter, 2)[0].A.abs().max().item<float>(), 0.0f);
}

TEST(ExpertFactors, SmallerOnesAreFilledUpWithZerosAndOtherExpertsStay) {
  testing::UserModel model;
  Adapter adapter = adapter_of_three(model);
  const at::Tensor before = adapter->linears().front().delta->tensor("A").detach().clone();
  const std::vector<nn::LowRank> factors{{at::ones({1, 6}), at::ones({10, 1})}, {at::ones({1, 10}), at::ones({6, 1})}};
  set_expert_factors(*adapter, 1, factors);
  const at::Tensor after = adapter->linears().front().delta->tensor("A");
  EXPECT_TRUE(at::equal(after.narrow(0, 2, 1), at::ones({1, 6})));
  EXPECT_TRUE(at::equal(after.narrow(0, 3, 1), at::zeros({1, 6})));
  EXPECT_TRUE(at::equal(after.narrow(0, 0, 2), before.narrow(0, 0, 2)));
  EXPECT_TRUE(at::equal(after.narrow(0, 4, 2), before.narrow(0, 4, 2)));
  EXPECT_TRUE(after.requires_grad());
  EXPECT_TRUE(has(error_text([&] { set_expert_factors(*adapter, 1, {factors[0]}); }), "each of 2 adapted linears"));
  EXPECT_TRUE(has(error_text([&] { set_expert_factors(*adapter, 1, {factors[1], factors[0]}); }), "up: expected"));
}

TEST(ExpertUpdates, OfAFilesTensorsHaveTheScaleInsideB) {
  testing::UserModel model;
  Adapter adapter = adapter_of_three(model);
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : adapter_tensors(*adapter)) {
    tensors.emplace(name, tensor.detach());
  }
  const ExpertUpdates updates = expert_updates(adapter->config(), tensors);
  EXPECT_EQ(updates.linears, (std::vector<std::string>{"down", "up"}));
  ASSERT_EQ(updates.of_expert.size(), 3u);
  const nn::LowRank factors = expert_factors(*adapter, 2)[0];  // of "up"
  EXPECT_TRUE(at::equal(updates.of_expert[2][1].A, factors.A));
  EXPECT_TRUE(at::equal(updates.of_expert[2][1].B, factors.B * adapter->config().scaling()));
}

}  // namespace
}  // namespace moelora
