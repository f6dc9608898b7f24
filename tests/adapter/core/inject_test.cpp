#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>

#include "moelora/adapter/adapter.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/error.h"

namespace moelora {
namespace {

// Two layers of two linears each, and one that accepts no delta.
class BlockImpl : public torch::nn::Module {
 public:
  BlockImpl() {
    up = register_module("up", nn::Linear(6, 10));
    down = register_module("down", nn::Linear(10, 6));
  }
  at::Tensor forward(const at::Tensor& x, const nn::RowContext& context) {
    return down->forward(at::relu(up->forward(x, context)), context);
  }
  nn::Linear up{nullptr}, down{nullptr};
};
TORCH_MODULE(Block);

class NetImpl : public torch::nn::Module {
 public:
  NetImpl() {
    first = register_module("first", Block());
    second = register_module("second", Block());
    plain = register_module("plain", torch::nn::Linear(6, 6));
  }
  at::Tensor forward(const at::Tensor& x, const nn::RowContext& context) {
    return second->forward(first->forward(x, context), context);
  }
  Block first{nullptr}, second{nullptr};
  torch::nn::Linear plain{nullptr};
};
TORCH_MODULE(Net);

MoeLoraConfig small_net_config() {
  MoeLoraConfig config;
  config.rank = 4;
  config.num_experts = 2;
  config.targets = {"up", "down"};
  config.gate.task_embedding_dim = 8;
  return config;
}

TaskNames two_tasks() { return TaskNames({"a", "b"}); }

void wake(Adapter& adapter) {  // B = 0 at the start hides everything
  at::NoGradGuard guard;
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("B").normal_();
  }
}

std::string injection_error(const std::vector<std::string>& targets) {
  Net net;
  MoeLoraConfig config = small_net_config();
  config.targets = targets;
  try {
    inject(*net, config, two_tasks());
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Inject, ZeroInitLeavesTheBaseOutputUnchanged) {
  Net net;
  const at::Tensor x = at::randn({5, 6});
  const nn::Segments segments = nn::Segments::from_lengths({2, 3}, {1, 1});
  const at::Tensor before = net->forward(x, nn::RowContext::plain(segments));
  Adapter adapter = inject(*net, small_net_config(), two_tasks());
  EXPECT_EQ(adapter->linears().size(), 4u);
  EXPECT_TRUE(at::equal(net->forward(x, adapter->context(segments, single_tasks({0, 1}))), before));
}

TEST(Inject, BaseNamesAndBytesStayTheSameThroughTraining) {
  Net net;
  const auto names = net->named_parameters().keys();
  std::vector<at::Tensor> bytes;
  for (const at::Tensor& parameter : net->parameters()) {
    bytes.push_back(parameter.detach().clone());
  }
  Adapter adapter = inject(*net, small_net_config(), two_tasks());
  EXPECT_EQ(net->named_parameters().keys(), names);
  torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(1e-2));
  const nn::Segments segments = nn::Segments::from_lengths({2, 3}, {1, 1});
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    net->forward(at::randn({5, 6}), adapter->context(segments, single_tasks({0, 1}))).square().sum().backward();
    optimizer.step();
  }
  const auto after = net->parameters();
  for (std::size_t i = 0; i < after.size(); ++i) {
    EXPECT_FALSE(after[i].requires_grad());
    EXPECT_FALSE(after[i].grad().defined());
    EXPECT_TRUE(at::equal(after[i], bytes[i]));
  }
  EXPECT_GT(adapter->linears().front().delta->tensor("B").abs().max().item<float>(), 0.0f);
}

TEST(Inject, HalvingTheBaseKeepsTheMastersInSinglePrecision) {
  Net net;
  Adapter adapter = inject(*net, small_net_config(), two_tasks());
  wake(adapter);
  const nn::Segments segments = nn::Segments::from_lengths({5}, {5});
  const at::Tensor x = at::randn({5, 6});
  const at::Tensor single = net->forward(x, adapter->context(segments, single_tasks({1})));
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    net->to(dtype);
    EXPECT_EQ(adapter->linears().front().delta->tensor("A").scalar_type(), at::kFloat);
    const at::Tensor low = net->forward(x.to(dtype), adapter->context(segments, single_tasks({1})));
    EXPECT_EQ(low.scalar_type(), dtype);
    EXPECT_LE((low.to(at::kFloat) - single).abs().max().item<float>(), 0.05f * single.abs().max().item<float>());
  }
}

TEST(Inject, SeveralNamedAdaptersTakeTurns) {
  Net net;
  Adapter one = inject(*net, small_net_config(), two_tasks(), "one");
  wake(one);
  Adapter two = inject(*net, small_net_config(), two_tasks(), "two");
  wake(two);
  const nn::Segments segments = nn::Segments::from_lengths({5}, {5});
  const at::Tensor x = at::randn({5, 6});
  const auto run = [&](Adapter& adapter) { return net->forward(x, adapter->context(segments, single_tasks({0}))); };
  EXPECT_TRUE(two->enabled());
  EXPECT_FALSE(one->enabled());
  const at::Tensor second = run(two);
  one->enable();
  EXPECT_FALSE(at::allclose(run(one), second));
  one->disable();
  EXPECT_TRUE(at::equal(net->forward(x, nn::RowContext::plain(segments)), run(two)));
  EXPECT_THROW(inject(*net, small_net_config(), two_tasks(), "one"), Error);
  eject(one);
  EXPECT_NO_THROW(inject(*net, small_net_config(), two_tasks(), "one"));
}

TEST(Inject, TargetsAreSuffixesAtComponentBoundariesOrExpressions) {
  Net net;
  MoeLoraConfig config = small_net_config();
  config.targets = {"first\\..*"};
  EXPECT_EQ(inject(*net, config, two_tasks(), "x")->linears().size(), 2u);
  config.targets = {"second.down"};
  EXPECT_EQ(inject(*net, config, two_tasks(), "y")->linears().front().name, "second.down");
  EXPECT_NE(injection_error({"own"}).find("'own' matches no module"), std::string::npos) << injection_error({"own"});
}

TEST(Inject, UselessTargetsAreNamed) {
  EXPECT_NE(injection_error({"query"}).find("first.up"), std::string::npos) << injection_error({"query"});
  EXPECT_NE(injection_error({"plain"}).find("accept no adapter: plain"), std::string::npos)
      << injection_error({"plain"});
  EXPECT_NE(injection_error({"up", "["}).find("regular expression"), std::string::npos);
  EXPECT_NE(injection_error({}).find("target"), std::string::npos);
}

TEST(Inject, ConfigurationsThatCanNotBeAreErrors) {
  Net net;
  MoeLoraConfig config = small_net_config();
  config.rank = 5;
  EXPECT_THROW(inject(*net, config, two_tasks()), Error);
  config = small_net_config();
  config.gate.top_k = 3;
  EXPECT_THROW(inject(*net, config, two_tasks()), Error);
}

TEST(Inject, PaddedBatchesOfAUsersModelWork) {
  Net net;
  Adapter adapter = inject(*net, small_net_config(), two_tasks());
  wake(adapter);
  const at::Tensor x = at::randn({2, 4, 6});
  const at::Tensor y = net->forward(x, adapter->context(nn::Segments::for_batch(2, 4), single_tasks({0, 1})));
  EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 4, 6}));
  const at::Tensor second =
      net->forward(x[1], adapter->context(nn::Segments::from_lengths({4}, {4}), single_tasks({1})));
  EXPECT_LE((y[1] - second).abs().max().item<float>(), 1e-5);
}

TEST(Adapter, TheSameSeedGivesTheSameInitialValues) {
  Net net;
  const auto values = [&](std::uint64_t seed, const std::string& name) {
    MoeLoraConfig config = small_net_config();
    config.seed = seed;
    return inject(*net, config, two_tasks(), name)->linears().front().delta->tensor("A").detach().clone();
  };
  const at::Tensor a = values(1, "a");
  EXPECT_TRUE(at::equal(a, values(1, "b")));
  EXPECT_FALSE(at::equal(a, values(2, "c")));
}

// A model with a head that is tied to an embedding; whether the head takes adapters is the model's affair.
class TiedImpl : public torch::nn::Module {
 public:
  TiedImpl() {
    embedding = register_parameter("embedding", at::randn({12, 6}));
    body = register_module("body", Block());
    lm_head = register_module("lm_head", nn::Linear(embedding));
  }
  at::Tensor embedding;
  Block body{nullptr};
  nn::Linear lm_head{nullptr};
};
TORCH_MODULE(Tied);

TEST(Inject, ALinearThatRefusesAdaptersIsNamedUnderEveryPattern) {
  for (const char* target : {"lm_head", ".*", "lm_head|.*up", "lm_.*"}) {
    Tied model;
    model->lm_head->refuse_deltas("it runs without context");
    MoeLoraConfig config = small_net_config();
    config.targets = {target};
    try {
      inject(*model, config, two_tasks());
      FAIL() << target << " was accepted";
    } catch (const Error& error) {
      for (const std::string& part : {"target '" + std::string(target) + "' matches lm_head, which takes no adapter",
                                      std::string("it runs without context"), std::string("body.up, body.down")}) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " is not in: " << error.what();
      }
    }
    EXPECT_EQ(model->body->up->delta("default"), nullptr);
  }
  Tied model;
  model->lm_head->refuse_deltas("it runs without context");
  MoeLoraConfig config = small_net_config();
  EXPECT_EQ(inject(*model, config, two_tasks())->linears().size(), 2u);
}

TEST(Inject, AHeadThatTakesAdaptersIsMergedOnlyWithAWeightOfItsOwn) {
  Tied tied;
  MoeLoraConfig config = small_net_config();
  config.targets = {"lm_head"};
  Adapter adapter = inject(*tied, config, two_tasks());
  wake(adapter);
  const at::Tensor before = tied->embedding.detach().clone();
  try {
    merge_for_task(adapter, "a");
    FAIL() << "the embedding was merged into";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("lm_head.weight is also embedding"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(at::equal(tied->embedding, before));

  Tied untied;
  untied->lm_head = untied->replace_module("lm_head", nn::Linear(untied->embedding.detach().clone()));
  const at::Tensor embedding = untied->embedding.detach().clone();
  Adapter own = inject(*untied, config, two_tasks());
  wake(own);
  merge_for_task(own, "a");
  EXPECT_TRUE(at::equal(untied->embedding, embedding));
  EXPECT_FALSE(at::equal(untied->lm_head->weight, embedding));
}

}  // namespace
}  // namespace moelora
