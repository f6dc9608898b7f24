#include "adapter/formats/task_lora.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "adapter/formats/foreign_copy.h"
#include "adapter/tiny_base.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"
#include "support/shared.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using testing::expect_named;
using testing::largest_difference;

TEST(TaskLora, PaddingTheRankLeavesTheUpdateAsItIs) {
  for (const double alpha : {32.0, 20.0, 0.7}) {  // scales 8/3, 5/3 and one that no float holds
    testing::TemporaryFolder folder;
    auto base = testing::tiny_base(1, 8);
    MoeLoraConfig config;
    config.rank = 12;
    config.num_experts = 4;
    config.alpha = alpha;
    const Adapter adapter = inject(*base, config, TaskNames({"a"}));
    {
      at::NoGradGuard no_grad;
      for (const auto& linear : adapter->linears()) {
        linear.delta->tensor("B").copy_(
            at::arange(linear.delta->tensor("B").numel()).sin().view_as(linear.delta->tensor("B")));
      }
    }
    export_peft(*adapter, "a", folder.path() / "plain");
    const auto plain = io::load_safetensors(folder.path() / "plain" / "adapter_model.safetensors");
    for (const std::int64_t rank : {16, 32, 64}) {
      const auto path = folder.path() / std::to_string(rank);
      export_peft(*adapter, "a", path, "", rank);
      const auto json = io::read_json_file(path / "adapter_config.json");
      EXPECT_EQ(json["r"], rank);
      EXPECT_EQ(json["lora_alpha"].get<double>() / static_cast<double>(rank), config.scaling()) << "bit for bit";
      const auto padded = io::load_safetensors(path / "adapter_model.safetensors");
      ASSERT_EQ(padded.size(), plain.size());
      for (const auto& [name, tensor] : plain) {
        const std::int64_t axis = name.ends_with("lora_A.weight") ? 0 : 1;
        const at::Tensor& all = padded.at(name);
        EXPECT_TRUE(at::equal(all.narrow(axis, 0, 12), tensor)) << name;
        ASSERT_EQ(all.size(axis), rank) << name;
        EXPECT_EQ(all.narrow(axis, 12, rank - 12).abs().max().item<float>(), 0.0F) << name;
      }
      auto other = testing::tiny_base(1, 8);
      const Adapter read = load_foreign_adapter(*other, path);
      const at::Tensor omega = adapter->expert_weights(single_tasks({0})).select(1, 0);
      for (std::size_t i = 0; i < read->linears().size(); ++i) {
        const at::Tensor found =
            read->linears()[i].delta->low_rank(read->expert_weights(single_tasks({0})).select(1, 0)).update().dense();
        EXPECT_LE(largest_difference(adapter->linears()[i].delta->low_rank(omega).update().dense(), found), 1e-5);
      }
    }
    EXPECT_TRUE(fs::exists(folder.path() / "64"));
    EXPECT_THROW(export_peft(*adapter, "a", folder.path() / "8", "", 8), Error);
    EXPECT_FALSE(fs::exists(folder.path() / "8"));
  }
}

TEST(TaskLora, TheRankOfAnEngineIsTheNextOfItsList) {
  EXPECT_EQ(engine_rank(8, {8, 16, 32, 64}), 8);
  EXPECT_EQ(engine_rank(12, {64, 32, 16, 8}), 16);
  EXPECT_EQ(engine_rank(1, {320}), 320);
  try {
    engine_rank(65, {8, 16, 32, 64});
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    expect_named(error.what(), {"rank is 65", "8, 16, 32, 64", "merge"});
  }
}

TEST(TaskLora, ARankAtWhichNoAlphaIsExactIsRefused) {
  testing::TemporaryFolder folder;
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 1;
  std::int64_t refused = 0;
  for (const double alpha : {0.1, 0.3, 0.7, 1.1, 1.3, 1.7, 1.9}) {  // s · 41 / 41 != s for some of them
    auto base = testing::tiny_base(1, 8);
    config.alpha = alpha;
    const bool exact = config.scaling() * 41.0 / 41.0 == config.scaling();
    const Adapter adapter = inject(*base, config, TaskNames({"a"}));
    try {
      export_peft(*adapter, "a", folder.path() / "out", "", 41);
      EXPECT_TRUE(exact) << alpha;
    } catch (const Error& error) {
      EXPECT_FALSE(exact) << alpha;
      expect_named(error.what(), {"power of two"});
      ++refused;
    }
    EXPECT_NO_THROW(export_peft(*adapter, "a", folder.path() / "out", "", 64));
  }
  EXPECT_GT(refused, 0);
}

TEST(TaskLora, OtherTasksOfTheAdapterHaveTheSameA) {
  auto base = testing::tiny_base(1, 8);
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  const Adapter adapter = inject(*base, config, TaskNames({"a", "b"}));
  {
    at::NoGradGuard no_grad;
    adapter->linears()[0].delta->tensor("B").fill_(1.0F);
  }
  const TaskLora a = task_lora(*adapter, "a");
  const TaskLora b = task_lora(*adapter, "b", 8);
  ASSERT_EQ(a.linears.size(), 4U);
  EXPECT_EQ(a.rank, 4);
  EXPECT_EQ(b.rank, 8);
  EXPECT_TRUE(at::equal(a.linears[0].A, b.linears[0].A.narrow(0, 0, 4)));
  EXPECT_FALSE(at::equal(a.linears[0].B, b.linears[0].B.narrow(1, 0, 4))) << "tasks weigh experts differently";
  EXPECT_THROW(task_lora(*adapter, "c"), Error);
}

}  // namespace
}  // namespace moelora
