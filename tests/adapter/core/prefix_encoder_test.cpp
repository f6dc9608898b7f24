#include "moelora/adapter/prefix_encoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "adapter/tiny_base.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"
#include "moelora/nn/attention.h"

namespace moelora {
namespace {

constexpr nn::PrefixShape kPrefixShape{2, 4, 2};  // 2 layers, 4 heads of width 2: H = 8

// tiny_base(2, 8) that takes a prefix.
class PrefixBase : public torch::nn::Module, public nn::PrefixHost {
 public:
  explicit PrefixBase(nn::PrefixShape shape = kPrefixShape) : shape_(shape) {
    for (const auto& child : testing::tiny_base(2, 8)->named_children()) {
      register_module(child.key(), child.value());
    }
  }
  nn::PrefixShape prefix_shape() const override { return shape_; }

 private:
  nn::PrefixShape shape_;
};

MoeLoraConfig prefix_config(bool projection, bool linears = false) {
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.gate.task_embedding_dim = 6;
  config.targets = linears ? std::vector<std::string>{"query_key_value"} : std::vector<std::string>{};
  config.prefix = PrefixConfig{3, projection, 0.0};
  config.seed = 5;
  return config;
}

TaskNames prefix_tasks() { return TaskNames({"a", "b"}); }

nn::Segments two_segments() { return nn::Segments::from_lengths({4, 2}, {3, 2}); }

template <typename Action>
std::string prefix_error(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(PrefixEncoder, EntriesOfTheEmbeddingAlternateKeysAndValuesByLayer) {
  PrefixEncoder encoder(PrefixConfig{3}, kPrefixShape);
  encoder->reset_parameters(at::detail::createCPUGenerator(1));
  EXPECT_EQ(encoder->embedding.sizes(), (std::vector<std::int64_t>{3, 32}));
  const auto layers = encoder->forward();
  ASSERT_EQ(layers.size(), 2u);
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    const auto entry = [&](std::int64_t index) { return encoder->embedding.narrow(1, 8 * index, 8).view({3, 4, 2}); };
    EXPECT_TRUE(at::equal(layers[layer].key, entry(2 * layer)));
    EXPECT_TRUE(at::equal(layers[layer].value, entry(2 * layer + 1)));
    EXPECT_EQ(layers[layer].length(), 3);
  }
}

TEST(PrefixEncoder, ProjectionIsALinearATanhAndALinear) {
  PrefixEncoder encoder(PrefixConfig{3, true}, kPrefixShape);
  encoder->reset_parameters(at::detail::createCPUGenerator(1));
  EXPECT_EQ(encoder->embedding.sizes(), (std::vector<std::int64_t>{3, 8}));
  EXPECT_EQ(encoder->parameters().size(), 5u);
  const at::Tensor hidden =
      at::tanh(at::mm(encoder->embedding, encoder->hidden_weight.t()) + encoder->hidden_bias.unsqueeze(0));
  const at::Tensor values = at::mm(hidden, encoder->output_weight.t()) + encoder->output_bias.unsqueeze(0);
  const auto layers = encoder->forward();
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_TRUE(at::allclose(layers[1].value, values.narrow(1, 24, 8).view({3, 4, 2}), 1e-6, 1e-7));
  for (const at::Tensor& parameter : {encoder->hidden_weight, encoder->output_weight, encoder->output_bias}) {
    EXPECT_LE(parameter.abs().max().item<double>(), 1.0 / std::sqrt(8.0));
    EXPECT_GT(parameter.abs().max().item<double>(), 0.5 / std::sqrt(8.0));
  }
}

TEST(PrefixEncoder, DropoutDependsOnTheDrawAloneAndBackwardUsesTheSameMasks) {
  PrefixEncoder encoder(PrefixConfig{5, false, 0.4}, kPrefixShape);
  encoder->reset_parameters(at::detail::createCPUGenerator(1));
  EXPECT_EQ(encoder->forward()[0].key.dim(), 3);  // evaluation: one prefix for all
  const auto together = encoder->forward({9, {7, 3}});
  const auto alone = encoder->forward({9, {3}});
  ASSERT_EQ(together[1].value.sizes(), (std::vector<std::int64_t>{2, 5, 4, 2}));
  EXPECT_TRUE(at::equal(together[1].value[1], alone[1].value[0]));
  EXPECT_FALSE(at::equal(together[1].value[0], together[1].value[1]));
  EXPECT_FALSE(at::equal(encoder->forward({10, {3}})[1].value, alone[1].value));

  std::vector<at::Tensor> entries;
  for (const auto& layer : together) {
    entries.insert(entries.end(), {layer.key, layer.value});
  }
  const at::Tensor values = at::stack(entries, 2).view({2, 5, 32});
  const at::Tensor dropped = values.eq(0.0);
  EXPECT_NEAR(dropped.to(at::kFloat).mean().item<double>(), 0.4, 0.1);
  EXPECT_TRUE(at::allclose(values, encoder->embedding.unsqueeze(0) * dropped.logical_not() / 0.6, 1e-6, 1e-7));
  const at::Tensor weight = at::randn({2, 5, 32});
  (values * weight).sum().backward();
  const at::Tensor expected = (weight * dropped.logical_not() / 0.6).sum(0);
  EXPECT_TRUE(at::allclose(encoder->embedding.grad(), expected, 1e-5, 1e-6));
}

TEST(PrefixAdapter, NeedsNoLinearsAndTrainsTheEncoder) {
  for (const bool projection : {false, true}) {
    PrefixBase base;
    Adapter adapter = inject(base, prefix_config(projection), prefix_tasks());
    EXPECT_TRUE(adapter->linears().empty());
    EXPECT_TRUE(adapter->gates().empty());
    EXPECT_EQ(adapter->parameters().size(), projection ? 5u : 1u);
    EXPECT_EQ(adapter_tensors(*adapter).size(), adapter->parameters().size());
    const nn::RowContext context = adapter->context(two_segments(), single_tasks({0, 1}));
    EXPECT_FALSE(context.expert_weights.defined());
    ASSERT_EQ(context.prefix.size(), 2u);
    const auto rows = [] { return at::randn({6, 4, 2}); };
    at::Tensor sum = at::zeros({});
    for (const auto& layer : context.prefix) {
      sum = sum + nn::prefix_lm_attention(rows(), rows(), rows(), context.segments, layer).square().sum();
    }
    sum.backward();
    for (const auto& [name, parameter] : adapter_tensors(*adapter)) {
      ASSERT_TRUE(parameter.grad().defined()) << name;
      EXPECT_GT(parameter.grad().abs().max().item<double>(), 0.0) << name;
    }
    for (const at::Tensor& parameter : base.parameters()) {
      EXPECT_FALSE(parameter.requires_grad());
    }
  }
}

TEST(PrefixAdapter, GoesTogetherWithLinearsWhoseValuesItDoesNotChange) {
  PrefixBase base, other;
  MoeLoraConfig config = prefix_config(true, /*linears=*/true);
  const Adapter both = inject(base, config, prefix_tasks());
  config.prefix.reset();
  const Adapter plain = inject(other, config, prefix_tasks());
  for (const auto& [name, tensor] : adapter_tensors(*plain)) {
    bool found = false;
    for (const auto& [same, value] : adapter_tensors(*both)) {
      found = found || (same == name && at::equal(value, tensor));
    }
    EXPECT_TRUE(found) << name;
  }
  const nn::RowContext context = both->context(two_segments(), single_tasks({0, 1}));
  EXPECT_TRUE(context.expert_weights.defined());
  EXPECT_EQ(context.prefix.size(), 2u);
  EXPECT_TRUE(plain->context(two_segments(), single_tasks({0, 1})).prefix.empty());
}

TEST(PrefixAdapter, GivesAPrefixOnlyWhileEnabledAndOnlyToThePrompt) {
  PrefixBase base;
  Adapter adapter = inject(base, prefix_config(false), prefix_tasks());
  const auto context = [&] { return adapter->context(two_segments(), single_tasks({0, 1})); };
  EXPECT_TRUE(adapter->enabled());
  EXPECT_EQ(context().prefix.size(), 2u);
  EXPECT_TRUE(context().next_rows({1}).prefix.empty());
  EXPECT_TRUE(context().select(at::tensor({0, 5}, at::kLong)).prefix.empty());
  adapter->disable();
  EXPECT_FALSE(adapter->enabled());
  EXPECT_TRUE(context().prefix.empty());
  adapter->enable();
  EXPECT_EQ(context().prefix.size(), 2u);
  eject(adapter);
  EXPECT_FALSE(adapter->enabled());
  EXPECT_TRUE(context().prefix.empty());
}

TEST(PrefixAdapter, NeedsAModelThatTakesOne) {
  auto base = testing::tiny_base(2, 8);
  const std::string error = prefix_error([&] { inject(*base, prefix_config(false, true), prefix_tasks()); });
  EXPECT_NE(error.find("PrefixHost"), std::string::npos) << error;
  for (const at::Tensor& parameter : base->parameters()) {
    EXPECT_TRUE(parameter.requires_grad());
  }
}

TEST(PrefixAdapter, SurvivesItsFileAndRefusesAnotherShapeOrBase) {
  for (const bool projection : {false, true}) {
    testing::TemporaryFolder folder;
    PrefixBase base;
    Adapter adapter = inject(base, prefix_config(projection, true), prefix_tasks());
    save_adapter(*adapter, folder.path() / "adapter", "base-print", "tokenizer-print", {});
    EXPECT_EQ(read_adapter_info(folder.path() / "adapter").config.prefix->projection, projection);
    PrefixBase again;
    const Adapter loaded = load_adapter(again, folder.path() / "adapter", "base-print", "tokenizer-print");
    const auto expected = adapter_tensors(*adapter);
    const auto found = adapter_tensors(*loaded);
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_EQ(found.back().first, projection ? "prefix.output.bias" : "prefix.embedding");
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].first, expected[i].first);
      EXPECT_TRUE(at::equal(found[i].second, expected[i].second)) << found[i].first;
    }
    PrefixBase another, deeper({3, 4, 2});
    const auto load = [&](torch::nn::Module& into, const std::string& print) {
      return prefix_error([&] { load_adapter(into, folder.path() / "adapter", print, ""); });
    };
    EXPECT_NE(load(another, "another-print").find("another base"), std::string::npos);
    const std::string misshapen = load(deeper, "base-print");
    EXPECT_NE(misshapen.find(projection ? "prefix.output.weight" : "prefix.embedding"), std::string::npos) << misshapen;
  }
}

TEST(PrefixAdapter, IsNotMergeableNorExportableAndNothingChanges) {
  testing::TemporaryFolder folder;
  PrefixBase base;
  Adapter adapter = inject(base, prefix_config(false, true), prefix_tasks());
  {
    at::NoGradGuard guard;
    for (const auto& linear : adapter->linears()) {
      linear.delta->tensor("B").normal_();
    }
  }
  const auto before = testing::copy_parameters(base);
  for (const std::string& error : {prefix_error([&] { merge_for_task(adapter, "a"); }), prefix_error([&] {
                                     merge_mixture(adapter, {{"a", 0.5}, {"b", 0.5}});
                                   }),
                                   prefix_error([&] { export_peft(*adapter, "a", folder.path() / "peft"); }),
                                   prefix_error([&] { export_moelora_peft(*adapter, folder.path() / "moelora"); })}) {
    EXPECT_EQ(error.find("NotMergeable"), 0u) << error;
    EXPECT_NE(error.find("prefix"), std::string::npos) << error;
  }
  EXPECT_TRUE(adapter->enabled());
  EXPECT_FALSE(is_merged(adapter));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "peft"));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "moelora"));
  for (const auto& parameter : base.named_parameters()) {
    EXPECT_TRUE(at::equal(parameter.value(), before.at(parameter.key()))) << parameter.key();
  }
}

TEST(PrefixConfig, IsPartOfTheJsonOnlyWhereThereIsAPrefix) {
  EXPECT_FALSE(MoeLoraConfig().to_json().contains("prefix"));
  MoeLoraConfig config = prefix_config(true);
  config.prefix->dropout = 0.1;
  const auto json = config.to_json();
  EXPECT_EQ(json["prefix"].dump(), R"({"length":3,"projection":true,"dropout":0.1})");
  EXPECT_EQ(MoeLoraConfig::from_json(json).to_json(), json);
}

TEST(PrefixConfig, ProblemsAreNamed) {
  const auto problem = [](const char* text) {
    return prefix_error([&] { MoeLoraConfig::from_json(nlohmann::ordered_json::parse(text)); });
  };
  EXPECT_NE(problem(R"({"targets": []})").find("targets"), std::string::npos);
  EXPECT_EQ(problem(R"({"targets": [], "prefix": {"length": 2}})"), "no error");
  EXPECT_NE(problem(R"({"prefix": {"length": -1}})").find("prefix.length"), std::string::npos);
  EXPECT_NE(problem(R"({"prefix": {"projection": true}})").find("prefix.length"), std::string::npos);
  EXPECT_NE(problem(R"({"prefix": {"length": 2, "dropout": 1.0}})").find("prefix.dropout"), std::string::npos);
  EXPECT_NE(problem(R"({"prefix": {"lenght": 2}})").find("length"), std::string::npos);
}

}  // namespace
}  // namespace moelora
