#include "moelora/adapter/mtl_lora_linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <nlohmann/json.hpp>

#include "adapter/user_model.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/adapter/new_task.h"
#include "moelora/adapter/parameter_count.h"
#include "support/shared.h"

namespace moelora {
namespace {

using testing::error_text;
using testing::has;

constexpr std::int64_t kMatrices = 3;

/// A delta with three matrices of rank 5 and four sequences of several tasks.
class MtlLoraCase : public ::testing::TestWithParam<double> {
 protected:
  MtlLoraCase() {
    config.delta = "mtl-lora";
    config.routing = Routing::single;
    config.rank = 5;  // the matrices don't share it
    config.num_experts = kMatrices;
    config.dropout = GetParam();
    delta = MtlLoraLinear(12, 9, config, 0, 77);
    at::NoGradGuard guard;
    for (at::Tensor* each : {&delta->A, &delta->B, &delta->Lambda}) {
      each->normal_();
    }
    context = nn::RowContext::plain(nn::Segments::from_lengths({3, 1, 4, 2}), at::kCPU, {5, {10, 11, 12, 13}});
    // Two single tasks, one twice, and a sequence of two tasks.
    omega = at::tensor({0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0.0f, 1.0f, 0.0f, 0.5f, 0.0f, 0.5f})
                .view({1, 4, kMatrices})
                .set_requires_grad(true);
    context.expert_weights = omega;
  }
  std::vector<at::Tensor> inputs() const { return {x, omega, delta->A, delta->B, delta->Lambda}; }
  std::vector<at::Tensor> gradients_of(const at::Tensor& y) const {
    return torch::autograd::grad({(y * probe).sum()}, inputs());
  }
  MoeLoraConfig config;
  MtlLoraLinear delta{nullptr};
  nn::RowContext context;
  at::Tensor omega;
  at::Tensor x = at::randn({10, 12}).set_requires_grad(true);
  at::Tensor weight = at::randn({9, 12});
  at::Tensor bias = at::randn({9});
  at::Tensor probe = at::randn({10, 9});
};

TEST_P(MtlLoraCase, OutputsAndGradientsAreThoseOfTheReadableForm) {
  const at::Tensor y = delta->forward(x, nn::FrozenWeight(weight), bias, context);
  const at::Tensor expected = delta->forward_reference(x, nn::FrozenWeight(weight), bias, context);
  EXPECT_LE((y - expected).abs().max().item<double>(), 1e-5 * expected.abs().max().item<double>());
  const auto found = gradients_of(y);
  const auto wanted = gradients_of(expected);
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_LE((found[i] - wanted[i]).abs().max().item<double>(), 1e-5 * wanted[i].abs().max().item<double>()) << i;
  }
}

TEST_P(MtlLoraCase, GradientsAreThoseOfFiniteDifferences) {
  delta->to(at::kDouble);
  x = x.detach().to(at::kDouble).set_requires_grad(true);
  weight = weight.to(at::kDouble);
  bias = bias.to(at::kDouble);
  probe = probe.to(at::kDouble);
  const auto loss = [&] {
    at::NoGradGuard no_grad;
    return (delta->forward(x, nn::FrozenWeight(weight), bias, context) * probe).sum().item<double>();
  };
  const auto found = torch::autograd::grad({(delta->forward(x, nn::FrozenWeight(weight), bias, context) * probe).sum()},
                                           {x, delta->A, delta->B, delta->Lambda});
  constexpr double kStep = 1e-6;
  const std::vector<at::Tensor> values{x, delta->A, delta->B, delta->Lambda};
  // Dropout goes through fp32 whatever the dtype, which is too coarse for differences of x.
  for (std::size_t i = GetParam() > 0.0 ? 1 : 0; i < values.size(); ++i) {
    const at::Tensor flat = values[i].detach().view(-1);
    const at::Tensor gradient = found[i].reshape(-1);
    const double largest = gradient.abs().max().item<double>();
    for (std::int64_t k = 0; k < flat.numel(); k += 7) {
      const double before = flat[k].item<double>();
      flat[k] = before + kStep;
      const double above = loss();
      flat[k] = before - kStep;
      const double below = loss();
      flat[k] = before;
      EXPECT_NEAR(gradient[k].item<double>(), (above - below) / (2 * kStep), 1e-6 * largest) << i << " " << k;
    }
  }
}

TEST_P(MtlLoraCase, ASequenceDoesNotDependOnTheOthers) {
  at::NoGradGuard no_grad;
  at::Tensor all;
  const at::Tensor together = delta->begin_forward(x, bias, context, all);
  std::int64_t first = 0;
  for (std::int64_t segment = 0; segment < 4; ++segment) {
    const auto length = context.segments.length(segment);
    nn::RowContext own = nn::RowContext::plain(nn::Segments::from_lengths({length}), at::kCPU, {5, {10 + segment}});
    own.expert_weights = omega.narrow(1, segment, 1);
    at::Tensor tape;
    const at::Tensor alone = delta->begin_forward(x.narrow(0, first, length), bias, own, tape);
    EXPECT_TRUE(at::allclose(alone, together.narrow(0, first, length), 1e-5, 1e-5)) << segment;
    first += length;
  }
}

TEST_P(MtlLoraCase, WhatIsFrozenGetsNoGradientAndChangesNoOther) {
  const auto gradients = [&] {
    return torch::autograd::grad({(delta->forward(x, nn::FrozenWeight(weight), bias, context) * probe).sum()},
                                 {x, omega});
  };
  const auto trained = gradients();
  for (at::Tensor* each : {&delta->A, &delta->B, &delta->Lambda}) {
    each->set_requires_grad(false);
  }
  const auto frozen = gradients();
  EXPECT_TRUE(at::equal(frozen[0], trained[0]));
  EXPECT_TRUE(at::equal(frozen[1], trained[1]));
}

INSTANTIATE_TEST_SUITE_P(Dropout, MtlLoraCase, ::testing::Values(0.0, 0.3));

TEST(MtlLora, FewRowsAreThoseOfTheReadableForm) {
  MoeLoraConfig config;
  config.delta = "mtl-lora";
  config.routing = Routing::single;
  config.rank = 16;
  config.num_experts = kMatrices;
  MtlLoraLinear delta(64, 48, config, 0, 77);
  at::NoGradGuard no_grad;
  for (at::Tensor* each : {&delta->A, &delta->B, &delta->Lambda}) {
    each->normal_();
  }
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = at::randn({4, 64}).to(type), weight = at::randn({48, 64}).to(type);
    nn::RowContext context = nn::RowContext::plain(nn::Segments::from_lengths({1, 1, 1, 1}));
    context.expert_weights = at::eye(kMatrices).index_select(0, at::tensor({2, 0, 1, 2})).unsqueeze(0);
    const at::Tensor y = delta->forward(x, nn::FrozenWeight(weight), {}, context);
    const at::Tensor expected =
        delta->forward_reference(x.to(at::kFloat), nn::FrozenWeight(weight.to(at::kFloat)), {}, context);
    const double bar = type == at::kFloat ? 1e-5 : 1e-2;
    EXPECT_LE((y.to(at::kFloat) - expected).abs().max().item<double>(), bar * expected.abs().max().item<double>());
    // A row's bits are its own.
    nn::RowContext last = nn::RowContext::plain(nn::Segments::from_lengths({1}));
    last.expert_weights = context.expert_weights.narrow(1, 3, 1);
    EXPECT_TRUE(at::equal(delta->forward(x.narrow(0, 3, 1), nn::FrozenWeight(weight), {}, last), y.narrow(0, 3, 1)));
  }
}

MoeLoraConfig three_tasks() {
  MoeLoraConfig config = testing::user_config();
  config.delta = "mtl-lora";
  config.routing = Routing::single;
  config.num_experts = 3;
  return config;
}

/// An adapter whose tasks differ.
struct Adapted {
  explicit Adapted(const MoeLoraConfig& config = three_tasks())
      : adapter(inject(*model, config, testing::user_tasks())) {
    testing::fill_updates(adapter);
    at::NoGradGuard guard;
    for (const auto& linear : adapter->linears()) {
      linear.delta->tensor("A").normal_(0.0, 0.3);
      linear.delta->tensor("Lambda").add_(at::randn_like(linear.delta->tensor("Lambda")), 0.5);
    }
  }
  at::Tensor run(const at::Tensor& x, const std::vector<std::int64_t>& tasks) {
    at::NoGradGuard guard;
    return model->forward(x, adapter->context(nn::Segments::for_batch(x.size(0), x.size(1)), single_tasks(tasks)));
  }
  testing::UserModel model;
  Adapter adapter;
};

TEST(MtlLora, BeginsAsPlainLora) {
  testing::UserModel model;
  Adapter adapter = inject(*model, three_tasks(), testing::user_tasks(), "mtl");
  testing::fill_updates(adapter);
  const at::Tensor x = at::randn({3, 2, 6});
  at::NoGradGuard guard;
  const nn::Segments segments = nn::Segments::for_batch(3, 2);
  const at::Tensor y = model->forward(x, adapter->context(segments, single_tasks({0, 1, 2})));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : adapter_tensors(*adapter)) {
    if (!name.ends_with(".Lambda")) {
      tensors.emplace(name, tensor.detach().clone());
    }
  }
  eject(adapter);
  MoeLoraConfig plain = testing::user_config();
  plain.num_experts = 1;
  Adapter lora = inject(*model, plain, testing::user_tasks(), "lora");
  fill_adapter(*lora, tensors, "the other adapter");
  EXPECT_TRUE(at::allclose(model->forward(x, lora->context(segments, single_tasks({0, 1, 2}))), y, 1e-5, 1e-6));
}

TEST(MtlLora, EachTaskIsMergedExactlyAndUnmergedToTheBit) {
  Adapted made;
  const at::Tensor before = made.model->up->weight.detach().clone();
  const at::Tensor x = at::randn({3, 2, 6});
  const at::Tensor mixed = made.run(x, {0, 1, 2});
  const nn::RowContext plain = nn::RowContext::plain(nn::Segments::for_batch(3, 2));
  for (const std::int64_t task : {0, 1, 2}) {
    merge_for_task(made.adapter, made.adapter->tasks().name(task));
    at::NoGradGuard guard;
    EXPECT_TRUE(at::allclose(made.model->forward(x, plain)[task], mixed[task], 1e-4, 1e-5)) << task;
    unmerge(made.adapter);
    EXPECT_TRUE(at::equal(made.model->up->weight, before)) << task;
  }
  // A mixture is that of the updates.
  merge_mixture(made.adapter, {{"triage", 0.25}, {"coding", 0.5}});
  const at::Tensor folded = made.model->up->weight.detach() - before;
  unmerge(made.adapter);
  at::Tensor expected = at::zeros_like(before);
  for (const auto& [task, share] : std::vector<std::pair<std::int64_t, double>>{{0, 0.25}, {1, 0.5}}) {
    const at::Tensor omega = made.adapter->expert_weights(single_tasks({task})).select(1, 0);
    expected.add_(made.adapter->linears().front().delta->low_rank(omega).update().dense(), share);
  }
  EXPECT_TRUE(at::allclose(folded, expected, 1e-4, 1e-5));
}

TEST(MtlLora, EachTaskIsExportedAsALoraOfTheSameRank) {
  Adapted made;
  testing::TemporaryFolder folder;
  const at::Tensor x = at::randn({1, 2, 6});
  for (const std::int64_t task : {0, 2}) {
    const auto file = folder.path() / std::to_string(task);
    const at::Tensor y = made.run(x, {task});
    export_peft(*made.adapter, made.adapter->tasks().name(task), file);
    made.adapter->disable();
    Adapter read = load_foreign_adapter(*made.model, file, {}, "read");
    EXPECT_EQ(read->config().rank, 4);
    EXPECT_EQ(read->config().num_experts, 1);
    {
      at::NoGradGuard guard;
      const nn::RowContext context = read->context(nn::Segments::for_batch(1, 2), single_tasks({0}));
      EXPECT_TRUE(at::allclose(made.model->forward(x, context), y, 1e-4, 1e-5));
    }
    eject(read);
    made.adapter->enable();
  }
  EXPECT_TRUE(has(error_text([&] { export_moelora_peft(*made.adapter, folder.path() / "all"); }), "PEFT instead"));
}

TEST(MtlLora, IsSavedAndLoaded) {
  Adapted made;
  const at::Tensor x = at::randn({3, 2, 6});
  const at::Tensor y = made.run(x, {2, 0, 1});
  testing::TemporaryFolder folder;
  save_adapter(*made.adapter, folder.path() / "adapter", "");
  eject(made.adapter);
  Adapter loaded = load_adapter(*made.model, folder.path() / "adapter", "");
  EXPECT_EQ(loaded->config().delta, "mtl-lora");
  at::NoGradGuard guard;
  EXPECT_TRUE(
      at::equal(made.model->forward(x, loaded->context(nn::Segments::for_batch(3, 2), single_tasks({2, 0, 1}))), y));
  EXPECT_EQ(adapted_linears(folder.path() / "adapter").at("up").in_features, 6);
}

TEST(MtlLora, ParametersAreCounted) {
  Adapted made;
  const ParameterCount count = count_parameters(*made.adapter);
  EXPECT_EQ(count.updates, 2 * (4 * 6 + 4 * 10 + 3 * 4 * 4));
  EXPECT_EQ(count.gates, 0);
}

TEST(MtlLora, ANewTaskNeedsAGateAndThenMixesTheMatrices) {
  Adapted made;
  EXPECT_TRUE(has(error_text([&] { with_new_task(*made.model, *made.adapter, "coding-2", "more"); }),
                  "a new task needs an adapter with a task gate, found routing \"single\""));
  MoeLoraConfig gated = three_tasks();
  gated.routing = Routing::task;
  gated.num_experts = 2;
  Adapted other(gated);
  EXPECT_GT(count_parameters(*other.adapter).gates, 0);
  other.adapter->disable();
  Adapter more = with_new_task(*other.model, *other.adapter, "coding-2", "more");
  EXPECT_EQ(more->tasks().size(), 4);
}

TEST(MtlLora, ConfigurationsThatDoNotFitAreNamed) {
  MoeLoraConfig config = three_tasks();
  config.rank = 7;  // not a multiple of three
  EXPECT_EQ(error_text([&] { config.validate(); }), "no error");
  EXPECT_EQ(MoeLoraConfig::from_json(config.to_json()).rank, 7);
  config.routing = Routing::token;
  EXPECT_TRUE(has(error_text([&] { config.validate(); }), "a matrix for each task, found \"token\""));
  config = three_tasks();
  config.num_experts = 2;
  testing::UserModel model;
  EXPECT_TRUE(has(error_text([&] { inject(*model, config, testing::user_tasks()); }), "num_experts = 3, found 2"));
  config.delta = "moelora";
  config.rank = 7;
  EXPECT_TRUE(has(error_text([&] { config.validate(); }), "rank: expected a multiple of num_experts"));
}

}  // namespace
}  // namespace moelora
