#include "moelora/adapter/new_task.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "adapter/tiny_base.h"
#include "io/raises.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

MoeLoraConfig gated_config() {
  MoeLoraConfig config;
  config.rank = 8;
  config.num_experts = 4;
  config.gate.task_embedding_dim = 6;
  config.targets = {"query_key_value", "dense"};
  return config;
}

Adapter ejected_adapter(torch::nn::Module& base, const MoeLoraConfig& config) {
  Adapter adapter = inject(base, config, TaskNames({"a", "b", "c"}));
  at::NoGradGuard no_grad;
  for (at::Tensor& parameter : adapter->parameters()) {
    parameter.normal_();
  }
  eject(adapter);
  return adapter;
}

TEST(NewTask, IsTheLastOneAndStartsBetweenTheOthers) {
  const auto base = testing::tiny_base(2, 16);
  const Adapter old = ejected_adapter(*base, gated_config());
  const Adapter more = with_new_task(*base, *old, "d");
  EXPECT_EQ(more->tasks().names(), (std::vector<std::string>{"a", "b", "c", "d"}));
  EXPECT_TRUE(more->enabled());
  const at::Tensor E = more->gates().front()->task_embedding;
  EXPECT_TRUE(at::equal(E.narrow(0, 0, 3), old->gates().front()->task_embedding));
  EXPECT_TRUE(at::equal(E[3], old->gates().front()->task_embedding.mean(0)));
  // A sample of all tasks has the same weights: those of the mean row, the normalised geometric mean of the tasks'.
  const at::Tensor omega = more->expert_weights({{3}, {0}, {1}, {2}}).squeeze(0);
  EXPECT_LE((omega[0] - old->expert_weights({{0, 1, 2}})[0][0]).abs().max().item<float>(), 1e-6);
  EXPECT_LE((omega[0] - at::softmax(omega.narrow(0, 1, 3).log().mean(0), 0)).abs().max().item<float>(), 1e-6);
}

TEST(NewTask, LeavesAllOtherTensorsAsTheyAre) {
  const auto base = testing::tiny_base(2, 16);
  const Adapter old = ejected_adapter(*base, gated_config());
  const auto before = testing::copy_parameters(*old);
  const Adapter more = with_new_task(*base, *old, "d");
  const auto copies = adapter_tensors(*more);
  const auto originals = adapter_tensors(*old);
  ASSERT_EQ(copies.size(), originals.size());
  for (std::size_t i = 0; i < copies.size(); ++i) {
    EXPECT_EQ(copies[i].first, originals[i].first);
    if (!copies[i].first.ends_with("task_embedding")) {
      EXPECT_TRUE(at::equal(copies[i].second, originals[i].second)) << copies[i].first;
      EXPECT_FALSE(copies[i].second.is_alias_of(originals[i].second)) << copies[i].first;
    }
  }
  for (const auto& [name, copy] : before) {
    EXPECT_TRUE(at::equal(old->named_parameters()[name], copy)) << name;
  }
}

TEST(NewTask, GetsARowInEachGateBehindReservedOnes) {
  MoeLoraConfig config = gated_config();
  config.gate.per_linear = true;
  config.gate.reserved_rows = 1;
  config.gate.top_k = 2;
  const auto base = testing::tiny_base(2, 16);
  const Adapter old = ejected_adapter(*base, config);
  const Adapter more = with_new_task(*base, *old, "d", "more");
  ASSERT_EQ(more->gates().size(), 4u);
  for (std::size_t gate = 0; gate < 4; ++gate) {
    const at::Tensor before = old->gates()[gate]->task_embedding;
    const at::Tensor E = more->gates()[gate]->task_embedding;
    ASSERT_EQ(E.size(0), 5);
    EXPECT_TRUE(at::equal(E.narrow(0, 0, 4), before));
    EXPECT_TRUE(at::equal(E[4], before.narrow(0, 1, 3).mean(0)));
  }
  EXPECT_EQ(more->adapter_name(), "more");
  EXPECT_EQ(more->expert_weights({{3}}).gt(0).sum().item<std::int64_t>(), 2 * 4);
}

TEST(NewTask, IsAnErrorWhereItCannotBe) {
  const auto base = testing::tiny_base(1, 16);
  Adapter old = inject(*base, gated_config(), TaskNames({"a", "b"}));
  EXPECT_TRUE(io::raises([&] { with_new_task(*base, *old, "c"); }, "an adapter named 'default' is attached"));
  EXPECT_TRUE(old->enabled());
  EXPECT_TRUE(io::raises([&] { with_new_task(*base, *old, "b", "more"); }, "expected a new task, found b"));
  EXPECT_TRUE(io::raises([&] { with_new_task(*base, *old, "", "more"); }, "empty"));
  EXPECT_TRUE(io::raises([&] { with_new_task(*testing::tiny_base(2, 16), *old, "c"); }, "does not fit"));
  Adapter more = with_new_task(*base, *old, "c", "more");
  EXPECT_FALSE(old->enabled());
  eject(more);
  eject(old);
  MoeLoraConfig config = gated_config();
  config.routing = Routing::uniform;
  Adapter uniform = inject(*base, config, TaskNames({"a", "b"}));
  EXPECT_TRUE(
      io::raises([&] { with_new_task(*base, *uniform, "c", "more"); }, "found routing \"uniform\" with 4 experts"));
  eject(uniform);
  config = gated_config();
  config.num_experts = 1;
  Adapter lora = inject(*base, config, TaskNames({"a", "b"}));
  EXPECT_TRUE(io::raises([&] { with_new_task(*base, *lora, "c", "more"); }, "with 1 expert;"));
}

}  // namespace
}  // namespace moelora
