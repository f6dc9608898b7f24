#include "moelora/adapter/foreign.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "adapter/formats/foreign_copy.h"
#include "adapter/tiny_base.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/finite.h"
#include "moelora/io/json_file.h"
#include "moelora/io/torch_checkpoint.h"

namespace moelora {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using Tensors = std::map<std::string, at::Tensor>;

using testing::expect_named;
using testing::ForeignCopy;
using testing::largest_difference;

const std::string kQkv = "base_model.model.transformer.layers.1.attention.query_key_value.";

Tensors tensors_of(const AdapterImpl& adapter) {
  const auto named = adapter_tensors(adapter);
  return {named.begin(), named.end()};
}

void expect_same_tensors(const AdapterImpl& a, const AdapterImpl& b) {
  const auto left = tensors_of(a);
  const auto right = tensors_of(b);
  ASSERT_EQ(left.size(), right.size());
  for (const auto& [name, tensor] : left) {
    ASSERT_TRUE(right.contains(name)) << name;
    EXPECT_TRUE(at::equal(tensor, right.at(name))) << name;
  }
}

TEST(ForeignAdapter, IsRecognisedByItsPeftType) {
  EXPECT_EQ(detect_foreign(testing::fixtures() / "moelora-tiny"), ForeignFormat::moelora_peft);
  EXPECT_EQ(detect_foreign(testing::fixtures() / "lora-tiny"), ForeignFormat::peft);
  EXPECT_EQ(detect_foreign(testing::fixtures() / "chatglm-tiny"), ForeignFormat::none);
}

TEST(MoeloraPeft, IsReadWithTheReferencesGate) {
  auto base = testing::tiny_chatglm_base();
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
  EXPECT_EQ(adapter->linears().size(), 12u);
  EXPECT_EQ(adapter->config().rank, 8);
  EXPECT_EQ(adapter->config().num_experts, 4);
  EXPECT_DOUBLE_EQ(adapter->config().scaling(), 4.0);
  EXPECT_EQ(adapter->config().gate.reserved_rows, 1);
  EXPECT_EQ(adapter->tasks().size(), 8);
  EXPECT_EQ(adapter->tasks().name(0), "task1");
  const auto golden = io::load_safetensors(testing::fixtures() / "moelora-tiny" / "golden.safetensors");
  const auto omega = adapter->expert_weights(single_tasks({0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_LE(largest_difference(omega[0], golden.at("gate_weights").narrow(0, 1, 8)), 1e-6);
  const auto several = adapter->expert_weights({{0, 2}, {1}, {3, 4, 7}});
  EXPECT_LE(largest_difference(several[0], golden.at("gate_weights_multi")), 1e-6);
}

TEST(MoeloraPeft, StacksTheExperts) {
  auto base = testing::tiny_chatglm_base();
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
  const auto file = io::load_safetensors(testing::fixtures() / "moelora-tiny" / "adapter_model.safetensors");
  const auto ours = tensors_of(*adapter);
  const std::string linear = "transformer.layers.1.attention.query_key_value";
  EXPECT_TRUE(at::equal(ours.at("linears." + linear + ".A").narrow(0, 4, 2), file.at(kQkv + "lora_A.loraA.2.weight")));
  EXPECT_TRUE(at::equal(ours.at("linears." + linear + ".B").narrow(1, 6, 2), file.at(kQkv + "lora_B.loraB.3.weight")));
}

TEST(MoeloraPeft, TheBinFileHoldsTheSameAdapter) {
  testing::TemporaryFolder folder;
  for (const auto* file : {"adapter_config.json", "adapter_model.bin"}) {
    fs::copy_file(testing::fixtures() / "moelora-tiny" / file, folder.path() / file);
  }
  auto base = testing::tiny_chatglm_base();
  auto other = testing::tiny_chatglm_base();
  expect_same_tensors(*load_foreign_adapter(*base, folder.path()),
                      *load_foreign_adapter(*other, testing::fixtures() / "moelora-tiny"));
}

TEST(MoeloraPeft, PerLinearUsesEachLayersOwnGate) {
  auto base = testing::tiny_chatglm_base();
  ForeignOptions options;
  options.per_linear = true;
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny", options);
  const auto golden = io::load_safetensors(testing::fixtures() / "moelora-tiny" / "multi_gate_golden.safetensors");
  const auto omega = adapter->expert_weights(single_tasks({0, 1, 2, 3, 4, 5, 6, 7}));
  ASSERT_EQ(omega.size(0), 12);
  for (std::size_t i = 0; i < adapter->linears().size(); ++i) {
    const auto expected = golden.at("gate_weights.model." + adapter->linears()[i].name).narrow(0, 1, 8);
    EXPECT_LE(largest_difference(omega[static_cast<std::int64_t>(i)], expected), 1e-6) << adapter->linears()[i].name;
  }
  // The peft type without a shared gate means the same without being asked.
  auto other = testing::tiny_chatglm_base();
  ForeignCopy copy("moelora-tiny");
  copy.config([](auto& json) { json["peft_type"] = "MMOELORA"; });
  EXPECT_TRUE(copy.load(*other)->config().gate.per_linear);
}

TEST(MoeloraPeft, TakesTaskNames) {
  ForeignOptions options;
  options.task_names = {"a", "b", "c", "d", "e", "f", "g", "h"};
  auto base = testing::tiny_base();
  EXPECT_EQ(ForeignCopy("moelora-tiny").load(*base, options)->tasks().index("h"), 7);
  options.task_names.pop_back();
  expect_named(ForeignCopy("moelora-tiny").error(options), {"8 tasks", "found 7"});
}

TEST(MoeloraPeft, HalfPrecisionFactorsAreWidenedExactly) {
  auto base = testing::tiny_base();
  const auto adapter = ForeignCopy("moelora-tiny")
                           .tensors([](Tensors& tensors) {
                             for (auto& [name, tensor] : tensors) {
                               tensor = tensor.to(at::kHalf);
                             }
                           })
                           .load(*base);
  EXPECT_EQ(adapter->linears()[0].delta->tensor("A").scalar_type(), at::kFloat);
}

TEST(MoeloraPeft, EveryDamageIsNamedInOneError) {
  const auto text = ForeignCopy("moelora-tiny")
                        .tensors([](Tensors& tensors) {
                          tensors[kQkv + "lora_A.loraA.0.mlp.weight"].add_(1);
                          tensors.erase(kQkv + "lora_B.loraB.1.weight");
                          tensors.erase(kQkv + "lora_B.loraB.1.mlp.weight");
                          tensors[kQkv + "lora_A.loraA.4.weight"] = at::zeros({2, 64});
                          tensors[kQkv + "lora_magnitude_vector"] = at::zeros({2});
                          for (const auto* alias : {".weight", ".mlp.weight"}) {
                            tensors[kQkv + "lora_B.loraB.3" + alias] = at::zeros({192, 3});
                          }
                          tensors["lora_gate.GateL.weight"] = at::zeros({4, 16}, at::kLong);
                        })
                        .error();
  expect_named(text, {"loraA.0.weight: differs from its alias", "missing: " + kQkv + "lora_B of expert 1",
                      "unexpected: " + kQkv + "lora_A of expert 4", "unknown key " + kQkv + "lora_magnitude_vector",
                      "lora_B of expert 3: expected a matrix with 2 columns",
                      "lora_gate.GateL.weight: expected floating", "missing: lora_gate.GateL.weight"});
}

TEST(MoeloraPeft, ALayerOrGateThatIsMissingOrMisshapenIsAnError) {
  expect_named(ForeignCopy("moelora-tiny")
                   .tensors([](Tensors& tensors) {
                     std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with(kQkv); });
                   })
                   .error(),
               {"missing: linears.transformer.layers.1.attention.query_key_value.A"});
  expect_named(ForeignCopy("moelora-tiny")
                   .tensors([](Tensors& tensors) {
                     tensors["lora_task_embedding.weight"] = at::zeros({8, 16});
                   })
                   .error(),
               {"gate.task_embedding: expected Float [9, 16], found Float [8, 16]"});
  expect_named(ForeignCopy("moelora-tiny").config([](auto& json) { json["expert_num"] = 3; }).error(), {"rank"});
  expect_named(ForeignCopy("moelora-tiny").config([](auto& json) { json.erase("task_num"); }).error(), {"task_num"});
}

TEST(PeftLora, IsReadAsOneExpert) {
  auto base = testing::tiny_chatglm_base();
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "lora-tiny");
  EXPECT_EQ(adapter->config().num_experts, 1);
  EXPECT_DOUBLE_EQ(adapter->config().scaling(), 2.0);
  EXPECT_EQ(adapter->tasks().names(), std::vector<std::string>{"default"});
  EXPECT_EQ(adapter->linears().size(), 12u);
  EXPECT_TRUE(adapter->gates().empty());
  const auto file = io::load_safetensors(testing::fixtures() / "lora-tiny" / "adapter_model.safetensors");
  const auto ours = tensors_of(*adapter);
  EXPECT_TRUE(
      at::equal(ours.at("linears.transformer.layers.1.attention.query_key_value.B"), file.at(kQkv + "lora_B.weight")));
}

TEST(PeftLora, RankStabilisedScalingBecomesAlpha) {
  auto base = testing::tiny_base();
  const auto adapter = ForeignCopy("lora-tiny").config([](auto& json) { json["use_rslora"] = true; }).load(*base);
  EXPECT_NEAR(adapter->config().scaling(), 16 / std::sqrt(8.0), 1e-12);
}

TEST(PeftLora, TargetsMayBeARegularExpressionOrOnlySomeLayers) {
  auto base = testing::tiny_base();
  const auto expression = ".*\\.(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)";
  EXPECT_EQ(ForeignCopy("lora-tiny")
                .config([&](auto& json) { json["target_modules"] = expression; })
                .load(*base)
                ->linears()
                .size(),
            12u);
  const auto first_layer = [](Tensors& tensors) {
    std::erase_if(tensors, [](const auto& entry) { return entry.first.find("layers.0.") == std::string::npos; });
  };
  auto other = testing::tiny_base();
  EXPECT_EQ(ForeignCopy("lora-tiny")
                .config([](auto& json) { json["layers_to_transform"] = {0}; })
                .tensors(first_layer)
                .load(*other)
                ->linears()
                .size(),
            4u);
  expect_named(ForeignCopy("lora-tiny").tensors(first_layer).error(), {"missing: linears.transformer.layers.1"});
}

TEST(PeftLora, SettingsThatChangeTheComputationAreRefusedByName) {
  const std::map<std::string, ordered_json> refused{{"use_dora", true},
                                                    {"bias", "all"},
                                                    {"fan_in_fan_out", true},
                                                    {"modules_to_save", {"lm_head"}},
                                                    {"rank_pattern", {4}},
                                                    {"alpha_pattern", "dense"},
                                                    {"lora_bias", true},
                                                    {"layer_replication", {{0, 1}}},
                                                    {"trainable_token_indices", {3}},
                                                    {"init_lora_weights", "pissa"},
                                                    {"a_setting_of_the_future", 1},
                                                    {"r", 0},
                                                    {"lora_alpha", "16"},
                                                    {"target_modules", nullptr}};
  for (const auto& [key, value] : refused) {
    expect_named(
        ForeignCopy("lora-tiny").config([&key = key, &value = value](auto& json) { json[key] = value; }).error(),
        {key + ": expected"});
  }
  EXPECT_EQ(ForeignCopy("lora-tiny").config([](auto& json) { json["a_setting_of_the_future"] = false; }).error(),
            "no error");
}

TEST(PeftLora, OtherKindsAndBrokenFoldersAreErrors) {
  expect_named(ForeignCopy("lora-tiny").config([](auto& json) { json["peft_type"] = "IA3"; }).error(),
               {"peft_type", "IA3"});
  expect_named(ForeignCopy("lora-tiny").tensors([](auto& tensors) { tensors.clear(); }).error(), {"is empty"});
  ForeignOptions options;
  options.per_linear = true;
  expect_named(ForeignCopy("lora-tiny").error(options), {"no gates"});
  testing::TemporaryFolder empty;
  auto base = testing::tiny_base();
  EXPECT_THROW(load_foreign_adapter(*base, empty.path()), Error);
  fs::copy_file(testing::fixtures() / "lora-tiny" / "adapter_config.json", empty.path() / "adapter_config.json");
  EXPECT_THROW(load_foreign_adapter(*base, empty.path()), Error);
}

TEST(ExportPeft, WritesTheTasksWeightsIntoB) {
  testing::TemporaryFolder folder;
  auto base = testing::tiny_chatglm_base();
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
  export_peft(*adapter, "task3", folder.path() / "out");
  const auto written = io::load_safetensors(folder.path() / "out" / "adapter_model.safetensors");
  const auto omega = adapter->expert_weights(single_tasks({2}))[0][0];
  const auto& linear = adapter->linears()[0];
  const auto prefix = foreign_prefix(linear.name);
  EXPECT_TRUE(at::equal(written.at(prefix + "lora_A.weight"), linear.delta->tensor("A")));
  EXPECT_TRUE(at::equal(written.at(prefix + "lora_B.weight"), linear.delta->tensor("B") * omega.repeat_interleave(2)));
  const auto json = io::read_json_file(folder.path() / "out" / "adapter_config.json");
  EXPECT_EQ(json["peft_type"], "LORA");
  EXPECT_EQ(json["r"], 8);
  EXPECT_EQ(json["lora_alpha"].dump(), "32");
  EXPECT_EQ(json["target_modules"].size(), 4u);

  auto other = testing::tiny_chatglm_base();
  const Adapter read = load_foreign_adapter(*other, folder.path() / "out");
  for (std::size_t i = 0; i < adapter->linears().size(); ++i) {
    const auto ours =
        adapter->linears()[i].delta->low_rank(adapter->expert_weights(single_tasks({2})).select(1, 0)).update();
    const auto theirs =
        read->linears()[i].delta->low_rank(read->expert_weights(single_tasks({0})).select(1, 0)).update();
    EXPECT_LE(largest_difference(ours.B.mm(ours.A), theirs.B.mm(theirs.A)), 1e-6);
  }
  EXPECT_THROW(export_peft(*adapter, "task9", folder.path() / "out"), Error);
}

TEST(ExportPeft, NamesTheLinearsWhenTheTargetsAreExpressions) {
  testing::TemporaryFolder folder;
  auto base = testing::tiny_base(1, 8);
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.alpha = 0.5;
  config.targets = {".*\\.mlp\\..*"};
  export_peft(*inject(*base, config, TaskNames({"a"})), "a", folder.path() / "out");
  const auto json = io::read_json_file(folder.path() / "out" / "adapter_config.json");
  EXPECT_EQ(json["target_modules"],
            (ordered_json{"transformer.layers.0.mlp.dense_h_to_4h", "transformer.layers.0.mlp.dense_4h_to_h"}));
  EXPECT_EQ(json["lora_alpha"], 0.5);
}

TEST(ExportMoeloraPeft, IsTheInverseOfImport) {
  for (const bool per_linear : {false, true}) {
    testing::TemporaryFolder folder;
    ForeignOptions options;
    options.per_linear = per_linear;
    options.task_names = {"a", "b", "c", "d", "e", "f", "g", "h"};
    auto base = testing::tiny_base();
    const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny", options);
    export_moelora_peft(*adapter, folder.path() / "out");
    auto other = testing::tiny_base();
    const Adapter again = load_foreign_adapter(*other, folder.path() / "out");
    expect_same_tensors(*adapter, *again);
    EXPECT_EQ(adapter->config().to_json(), again->config().to_json());
    EXPECT_EQ(adapter->tasks().names(), again->tasks().names());
    fs::remove(folder.path() / "out" / "adapter_model.safetensors");
    auto third = testing::tiny_base();
    expect_same_tensors(*adapter, *load_foreign_adapter(*third, folder.path() / "out"));
    if (!per_linear) {  // what the reference wrote, but for the gates that it never used
      const auto reference = io::load_safetensors(testing::fixtures() / "moelora-tiny" / "adapter_model.safetensors");
      for (const auto& [name, tensor] : io::load_torch_checkpoint(folder.path() / "out" / "adapter_model.bin")) {
        EXPECT_TRUE(at::equal(tensor, reference.at(name))) << name;
      }
    }
  }
}

TEST(ExportMoeloraPeft, PutsARowBeforeTheTasks) {
  testing::TemporaryFolder folder;
  auto base = testing::tiny_base(1, 8);
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  const Adapter adapter = inject(*base, config, TaskNames({"a", "b"}));
  export_moelora_peft(*adapter, folder.path() / "out");
  auto other = testing::tiny_base(1, 8);
  const Adapter again = load_foreign_adapter(*other, folder.path() / "out");
  EXPECT_EQ(again->gates()[0]->task_embedding.size(0), 3);
  EXPECT_TRUE(at::equal(again->expert_weights(single_tasks({0, 1})), adapter->expert_weights(single_tasks({0, 1}))));
}

TEST(ExportMoeloraPeft, WhatTheFormatCanNotSayIsAnError) {
  testing::TemporaryFolder folder;
  const auto error_with = [&](const std::function<void(MoeLoraConfig&)>& change) -> std::string {
    auto base = testing::tiny_base(1, 8);
    MoeLoraConfig config;
    config.rank = 4;
    config.num_experts = 4;
    change(config);
    const Adapter adapter = inject(*base, config, TaskNames({"a"}));
    try {
      export_moelora_peft(*adapter, folder.path() / "out");
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  expect_named(error_with([](auto& config) { config.gate.top_k = 2; }), {"top_k"});
  expect_named(error_with([](auto& config) { config.routing = Routing::uniform; }), {"uniform"});
  expect_named(error_with([](auto& config) { config.num_experts = 1; }), {"one expert"});
  expect_named(error_with([](auto& config) { config.gate.reserved_rows = 2; }), {"reserves one row"});
  EXPECT_FALSE(fs::exists(folder.path() / "out"));
}

TEST(Export, TheBaseIsNamedWhereOtherProgramsLookForIt) {
  auto base = testing::tiny_base();
  const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
  testing::TemporaryFolder folder;
  export_peft(*adapter, "task1", folder.path() / "peft", "THUDM/chatglm-6b");
  export_moelora_peft(*adapter, folder.path() / "moelora", "/models/base");
  EXPECT_EQ(io::read_json_file(folder.path() / "peft" / "adapter_config.json")["base_model_name_or_path"],
            "THUDM/chatglm-6b");
  EXPECT_EQ(io::read_json_file(folder.path() / "moelora" / "adapter_config.json")["base_model_name_or_path"],
            "/models/base");
}

TEST(Export, AnAdapterThatIsNotFiniteIsRefusedAndNothingIsWritten) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto base = testing::tiny_base();
    const Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
    {
      at::NoGradGuard no_grad;
      adapter->linears()[2].delta->tensor("B").view(-1)[5] = bad;
    }
    testing::TemporaryFolder folder;
    EXPECT_THROW(export_peft(*adapter, "task1", folder.path() / "out"), io::NotFinite);
    EXPECT_THROW(export_moelora_peft(*adapter, folder.path() / "out"), io::NotFinite);
    EXPECT_FALSE(fs::exists(folder.path() / "out"));
  }
}

}  // namespace
}  // namespace moelora
