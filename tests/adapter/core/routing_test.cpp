// Routings without a task gate: single and table.

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

/// An adapter with random factors and the given fixed expert weights.
Adapter fixed_adapter(torch::nn::Module& base, Routing routing, std::vector<std::vector<double>> table) {
  MoeLoraConfig config;
  config.rank = 12;
  config.num_experts = 3;
  config.alpha = 6;
  config.routing = routing;
  config.table = std::move(table);
  Adapter adapter = inject(base, config, TaskNames({"a", "b", "c"}));
  at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(7);
  for (const auto& linear : adapter->linears()) {
    linear.delta->tensor("A").normal_(0.0, 0.2, generator);
    linear.delta->tensor("B").normal_(0.0, 0.2, generator);
  }
  return adapter;
}

TEST(SingleRouting, EachTaskTrainsItsOwnFactorsOnly) {
  auto base = testing::tiny_base(1, 16);
  Adapter adapter = fixed_adapter(*base, Routing::single, {});
  const nn::RowContext context = adapter->context(nn::Segments::from_lengths({2, 3}, {1, 1}), single_tasks({2, 0}));
  const auto& linear = adapter->linears().front();
  linear.base->forward(at::randn({5, 16}), context).square().sum().backward();
  const at::Tensor gradient = linear.delta->tensor("A").grad();
  EXPECT_GT(gradient.narrow(0, 0, 4).abs().min().item<float>(), 0.0f);
  EXPECT_EQ(gradient.narrow(0, 4, 4).abs().max().item<float>(), 0.0f);  // task b was not there
  EXPECT_GT(gradient.narrow(0, 8, 4).abs().min().item<float>(), 0.0f);
  EXPECT_EQ(linear.delta->tensor("B").grad().narrow(1, 4, 4).abs().max().item<float>(), 0.0f);
}

TEST(SingleRouting, MergesTheTasksOwnLora) {
  auto base = testing::tiny_base(1, 16);
  const auto before = testing::copy_parameters(*base);
  Adapter adapter = fixed_adapter(*base, Routing::single, {});
  merge_for_task(adapter, "b");
  for (const auto& linear : adapter->linears()) {
    const at::Tensor update =
        at::mm(linear.delta->tensor("B").narrow(1, 4, 4), linear.delta->tensor("A").narrow(0, 4, 4)) *
        adapter->config().scaling();
    EXPECT_LE((linear.base->weight - before.at(linear.name + ".weight") - update).abs().max().item<float>(), 1e-6);
  }
}

/// One linear with routing single: 4 tasks of rank 3, and segments shorter and longer than a block (64 rows here).
struct SingleFixture {
  MoeLoraLinear delta{nullptr};
  nn::RowContext context;
  at::Tensor x, weight = at::randn({9, 20}), bias = at::randn({9});

  /// `several`: the third segment belongs to two tasks.
  explicit SingleFixture(double dropout, bool several = false,
                         const std::vector<std::int64_t>& lengths = {3, 150, 1, 70, 5, 2, 64}) {
    MoeLoraConfig config;
    config.rank = 12;
    config.num_experts = 4;
    config.routing = Routing::single;
    config.dropout = dropout;
    delta = MoeLoraLinear(20, 9, config, 0, 77);
    const std::int64_t tasks[] = {2, 0, 2, 1, 1, 2, 0};  // task 3 is not there
    const auto segments = static_cast<std::int64_t>(lengths.size());
    context = nn::RowContext::plain(nn::Segments::from_lengths(lengths, std::vector<std::int64_t>(lengths.size(), 1)));
    context.expert_weights = at::zeros({1, segments, 4});
    for (std::int64_t segment = 0; segment < segments; ++segment) {
      context.expert_weights[0][segment][tasks[segment]] = 1.0f;
      context.dropout.draws.push_back(10 + segment);
    }
    if (several) {
      context.expert_weights[0][2].copy_(at::tensor({0.5f, 0.0f, 0.5f, 0.0f}));
    }
    x = at::randn({context.rows(), 20}).set_requires_grad(true);
    at::NoGradGuard guard;
    delta->A.normal_();
    delta->B.normal_();
  }
  at::Tensor fast() { return delta->forward(x, nn::FrozenWeight(weight), bias, context); }
  at::Tensor slow() { return delta->forward_reference(x, nn::FrozenWeight(weight), bias, context); }
  std::int64_t tape_width() {
    at::Tensor tape;
    delta->begin_forward(x.detach(), bias, context, tape);
    return tape.size(1);
  }
};

// Largest difference of outputs and gradients from the plain operations', relative to the largest number.
double single_difference(SingleFixture& f, const std::vector<at::Tensor>& inputs) {
  const at::Tensor probe = at::randn({f.context.rows(), 9});
  const at::Tensor fast = f.fast();
  const at::Tensor slow = f.slow();
  double difference = ((fast - slow).abs().max() / slow.abs().max()).item<double>();
  const auto found = torch::autograd::grad({(fast * probe).sum()}, inputs);
  const auto expected = torch::autograd::grad({(slow * probe).sum()}, inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    difference = std::max(difference, ((found[i] - expected[i]).abs().max() / expected[i].abs().max()).item<double>());
  }
  return difference;
}

TEST(SingleRouting, MultipliesOnlyTheTasksSlicesAndEqualsPlainOperations) {
  at::manual_seed(3);
  const int threads_before = at::get_num_threads();
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    for (const double dropout : {0.0, 0.3}) {
      SingleFixture f(dropout);
      EXPECT_EQ(f.tape_width(), 3);
      EXPECT_LE(single_difference(f, {f.x, f.delta->A, f.delta->B}), 1e-5) << "dropout " << dropout;
    }
  }
  at::set_num_threads(threads_before);
}

TEST(SingleRouting, ASampleOfSeveralTasksTakesTheStackedForm) {
  at::manual_seed(4);
  SingleFixture f(0.3, /*several=*/true);
  EXPECT_EQ(f.tape_width(), 12);
  EXPECT_LE(single_difference(f, {f.x, f.delta->A, f.delta->B}), 1e-5);
}

TEST(SingleRouting, ExpertWeightsThatRequireAGradientGetIt) {
  at::manual_seed(5);
  SingleFixture f(0.3);
  f.context.expert_weights.set_requires_grad(true);
  EXPECT_EQ(f.tape_width(), 12);
  EXPECT_LE(single_difference(f, {f.x, f.delta->A, f.delta->B, f.context.expert_weights}), 1e-5);
  // Asked for after a forward that had not to provide for it: an error, no wrong number.
  f.context.expert_weights = f.context.expert_weights.detach();
  at::Tensor tape, dx;
  f.delta->begin_forward(f.x.detach(), f.bias, f.context, tape);
  nn::DeltaGradients found;
  found.expert_weights = at::zeros_like(f.context.expert_weights);
  EXPECT_TRUE(io::raises(
      [&] {
        f.delta->finish_backward(at::ones({f.context.rows(), 9}), nn::StoredRows(f.x.detach()), tape, f.context, dx,
                                 found);
      },
      "require their gradient"));
}

TEST(SingleRouting, ManualBackwardGoesThroughTheActivation) {
  at::manual_seed(6);
  SingleFixture f(0.3);
  auto linear = nn::Linear(f.weight, f.bias);
  linear->weight.set_requires_grad(false);
  linear->bias.set_requires_grad(false);
  linear->attach("a", f.delta.ptr());
  linear->activate("a");
  const at::Tensor inner = at::randn(f.x.sizes()).set_requires_grad(true);
  const at::Tensor dy = at::randn({f.context.rows(), 9});
  const at::Tensor y =
      f.delta->forward_reference(at::gelu(inner, "tanh"), nn::FrozenWeight(f.weight), f.bias, f.context);
  const auto expected = torch::autograd::grad({(y * dy).sum()}, {inner, f.delta->A, f.delta->B});
  at::NoGradGuard no_grad;
  at::Tensor tape;
  const at::Tensor by_hand = nn::manual_forward(*linear, nn::gelu(inner.detach()), f.context, tape);
  nn::DeltaGradients found;
  const at::Tensor dx = nn::manual_backward(*linear, dy, nn::GeluRows(inner.detach()), tape, f.context, true, found);
  const auto near = [](const at::Tensor& is, const at::Tensor& should) {
    return (is - should).abs().max().item<float>() <= 1e-5f * should.abs().max().item<float>();
  };
  EXPECT_TRUE(near(by_hand, y));
  EXPECT_TRUE(near(dx, expected[0]));
  EXPECT_TRUE(near(found.trained[0], expected[1]));
  EXPECT_TRUE(near(found.trained[1], expected[2]));
  EXPECT_EQ(found.trained[0].narrow(0, 9, 3).abs().max().item<float>(), 0.0f);  // task 3
}

TEST(SingleRouting, AStepOfDecodingEqualsTheReferenceAndIsTheSameInEveryBatch) {
  at::manual_seed(7);
  for (const bool several : {false, true}) {
    SingleFixture f(0.0, several, {1, 1, 1, 1, 1, 1, 1});
    at::NoGradGuard no_grad;
    f.context.dropout = {};
    for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
      const at::Tensor x = f.x.detach().to(dtype);
      const nn::FrozenWeight weight(f.weight.to(dtype));
      const at::Tensor bias = f.bias.to(dtype);
      const at::Tensor y = f.delta->forward(x, weight, bias, f.context);
      const at::Tensor exact = f.delta->forward_reference(
          x.to(at::kFloat), nn::FrozenWeight(f.weight.to(dtype).to(at::kFloat)), bias.to(at::kFloat), f.context);
      EXPECT_LE((y.to(at::kFloat) - exact).abs().max().item<float>(),
                (dtype == at::kFloat ? 1e-6f : 1e-3f) * exact.abs().max().item<float>());
      for (std::int64_t row = 0; row < 7 && !several; ++row) {
        const at::Tensor alone = f.delta->forward(x.narrow(0, row, 1), weight, bias, f.context.next_rows({row}));
        EXPECT_TRUE(at::equal(alone, y.narrow(0, row, 1))) << "row " << row;
      }
    }
  }
}

TEST(SingleRouting, NeedsAnExpertForEachTask) {
  auto base = testing::tiny_base(1, 16);
  MoeLoraConfig config;
  config.routing = Routing::single;
  config.num_experts = 2;
  EXPECT_TRUE(io::raises([&] { inject(*base, config, TaskNames({"a", "b", "c"})); }, "num_experts = 3"));
}

TEST(TableRouting, GivesEachTaskItsRow) {
  auto base = testing::tiny_base(1, 16);
  const auto before = testing::copy_parameters(*base);
  Adapter adapter = fixed_adapter(*base, Routing::table, {{0.5, -1.0, 2.0}, {0, 0, 1}, {0.1, 0.2, 0.3}});
  EXPECT_TRUE(at::allclose(adapter->expert_weights(single_tasks({0, 2})),
                           at::tensor({0.5f, -1.0f, 2.0f, 0.1f, 0.2f, 0.3f}).view({1, 2, 3})));
  merge_for_task(adapter, "a");
  const auto& linear = adapter->linears().front();
  at::Tensor update = at::zeros_like(linear.base->weight);
  const double weights[] = {0.5, -1.0, 2.0};
  for (std::int64_t i = 0; i < 3; ++i) {
    update =
        update + at::mm(linear.delta->tensor("B").narrow(1, 4 * i, 4), linear.delta->tensor("A").narrow(0, 4 * i, 4)) *
                     weights[i];
  }
  EXPECT_LE((linear.base->weight - before.at(linear.name + ".weight") - update * adapter->config().scaling())
                .abs()
                .max()
                .item<float>(),
            1e-6);
}

TEST(TableRouting, IsWrittenAndReadWithTheAdapter) {
  auto base = testing::tiny_base(1, 16);
  Adapter adapter = fixed_adapter(*base, Routing::table, {{0.5, -1.0, 2.0}, {0, 0, 1}, {0.1, 0.2, 0.3}});
  const auto folder = std::filesystem::temp_directory_path() / "moelora-table-routing";
  std::filesystem::remove_all(folder);
  save_adapter(*adapter, folder, "base", "tokenizer", {});
  auto other = testing::tiny_base(1, 16);
  const Adapter read = load_adapter(*other, folder, "base", "tokenizer");
  EXPECT_TRUE(at::equal(read->expert_weights(single_tasks({1})), adapter->expert_weights(single_tasks({1}))));
  EXPECT_TRUE(at::equal(read->linears()[2].delta->tensor("B"), adapter->linears()[2].delta->tensor("B")));
  std::filesystem::remove_all(folder);
}

TEST(RoutingConfig, NamesWhatDoesNotFitTogether) {
  const auto problem = [](const nlohmann::ordered_json& json) {
    try {
      MoeLoraConfig::from_json(json);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  using nlohmann::ordered_json;
  EXPECT_NE(problem(ordered_json{{"routing", "token"}, {"num_experts", 1}}).find("2 or more"), std::string::npos);
  EXPECT_NE(problem(ordered_json{{"routing", "token"}, {"top_k", 2}}).find("top_k"), std::string::npos);
  EXPECT_NE(problem(ordered_json{{"balance_loss", 0.1}}).find("balance_loss"), std::string::npos);
  EXPECT_NE(problem(ordered_json{{"routing", "table"}}).find("table"), std::string::npos);
  EXPECT_NE(problem(ordered_json{{"routing", "table"}, {"table", {{1.0, 2.0}}}}).find("num_experts = 8"),
            std::string::npos);
  const ordered_json good{{"rank", 4}, {"num_experts", 2}, {"routing", "table"}, {"table", {{1.0, 2.0}}}};
  EXPECT_EQ(MoeLoraConfig::from_json(MoeLoraConfig::from_json(good).to_json()).table,
            (std::vector<std::vector<double>>{{1.0, 2.0}}));
}

}  // namespace
}  // namespace moelora
