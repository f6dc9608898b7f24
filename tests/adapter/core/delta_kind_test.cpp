// Kinds of deltas that the library does not have, registered as a program would: everything that handles adapters works
// on them through nn::LinearDelta alone.

#include "moelora/adapter/delta_kind.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "adapter/user_model.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/parameter_count.h"
#include "support/shared.h"

namespace moelora {
namespace {

using testing::error_text;
using testing::has;

/// y = x W^T + bias + s · B M A x, M [r, r]: a low rank, and no experts.
class MixedRankDelta : public nn::LinearDelta {
 public:
  MixedRankDelta(const MoeLoraConfig& config, const LinearSize& linear) : scale_(config.scaling()) {
    A_ = register_parameter("A", at::zeros({config.rank, linear.in_features}));
    B_ = register_parameter("B", at::zeros({linear.out_features, config.rank}));
    M_ = register_parameter("M", at::zeros({config.rank, config.rank}));
  }
  void reset_parameters(at::Generator generator) override {
    at::NoGradGuard guard;
    for (at::Tensor parameter : {A_, B_, M_}) {
      parameter.normal_(0.0, 0.3, generator);
    }
  }
  at::Tensor forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                     const nn::RowContext&) override {
    return weight.forward(x, bias) + at::linear(at::linear(at::linear(x, A_), M_), B_) * scale_;
  }
  std::string not_mergeable() const override { return {}; }
  nn::LowRankForm low_rank(const at::Tensor&) const override {
    return {A_.detach(), at::mm(B_.detach(), M_.detach()), {}, scale_};
  }

 private:
  double scale_;
  at::Tensor A_, B_, M_;
};

/// y = (1 + d) ⊙ (x W^T) + bias, d [d_out]: no matrix that is added.
class OutputScale : public nn::LinearDelta {
 public:
  explicit OutputScale(const LinearSize& linear) { d_ = register_parameter("d", at::full({linear.out_features}, 0.5)); }
  at::Tensor forward(const at::Tensor& x, const nn::FrozenWeight& weight, const at::Tensor& bias,
                     const nn::RowContext&) override {
    const at::Tensor y = weight.forward(x, {}) * (1.0 + d_);
    return bias.defined() ? y + bias : y;
  }

 private:
  at::Tensor d_;
};

void register_kinds() {
  static const bool once = [] {
    using Shapes = std::map<std::string, std::vector<std::int64_t>>;
    register_delta_kind({"mixed-rank",
                         [](const MoeLoraConfig& config, const LinearSize& linear) {
                           return std::vector<DeltaTensor>{{"A", {config.rank, linear.in_features}},
                                                           {"B", {linear.out_features, config.rank}},
                                                           {"M", {config.rank, config.rank}}};
                         },
                         [](const MoeLoraConfig& config, const LinearSize& linear, std::int64_t, std::uint64_t) {
                           return std::make_shared<MixedRankDelta>(config, linear);
                         },
                         [](const Shapes& shapes) {
                           return LinearSize{shapes.at("A").at(1), shapes.at("B").at(0)};
                         }});
    register_delta_kind({"output-scale",
                         [](const MoeLoraConfig&, const LinearSize& linear) {
                           return std::vector<DeltaTensor>{{"d", {linear.out_features}}};
                         },
                         [](const MoeLoraConfig&, const LinearSize& linear, std::int64_t, std::uint64_t) {
                           return std::make_shared<OutputScale>(linear);
                         },
                         [](const Shapes&) { return std::nullopt; }});
    return true;
  }();
  ASSERT_TRUE(once);
}

class DeltaKindCase : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { register_kinds(); }
  MoeLoraConfig config() const {
    MoeLoraConfig config = testing::user_config();
    config.num_experts = 1;
    config.delta = GetParam();
    return config;
  }
  bool low_rank() const { return std::string(GetParam()) == "mixed-rank"; }
  static at::Tensor run(testing::UserModel& model, const Adapter& adapter, const at::Tensor& x) {
    at::NoGradGuard guard;
    return model->forward(x, adapter->context(nn::Segments::for_batch(2, 3), single_tasks({0, 2})));
  }
};

TEST_P(DeltaKindCase, IsInjectedTrainedCountedAndMoved) {
  testing::UserModel model;
  Adapter adapter = inject(*model, config(), testing::user_tasks());
  const at::Tensor x = at::randn({2, 3, 6});
  model->forward(x, adapter->context(nn::Segments::for_batch(2, 3), single_tasks({0, 1}))).sum().backward();
  for (const auto& parameter : adapter->named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_GT(parameter.value().grad().abs().max().item<float>(), 0.0f) << parameter.key();
  }
  const ParameterCount count = count_parameters(*adapter);
  EXPECT_EQ(count.linears, 2);
  EXPECT_EQ(count.updates, low_rank() ? 2 * (4 * 6 + 4 * 10 + 4 * 4) : 16);
  EXPECT_EQ(count.gates, 0);
  EXPECT_EQ(adapter->linears().front().delta->operations_per_row(),
            6.0 * static_cast<double>(adapter->linears().front().delta->parameter_count()));
  adapter->to(at::kDouble);
  EXPECT_EQ(adapter_tensors(*adapter).front().second.scalar_type(), at::kDouble);
}

TEST_P(DeltaKindCase, IsSavedAndLoadedWithWhatItIs) {
  testing::UserModel model;
  Adapter adapter = inject(*model, config(), testing::user_tasks());
  {
    at::NoGradGuard guard;
    for (auto& parameter : adapter->parameters()) {
      parameter.add_(at::randn_like(parameter), 0.1);
    }
  }
  const at::Tensor x = at::randn({2, 3, 6});
  const at::Tensor before = run(model, adapter, x);
  testing::TemporaryFolder folder;
  save_adapter(*adapter, folder.path() / "adapter", "");
  eject(adapter);
  Adapter loaded = load_adapter(*model, folder.path() / "adapter", "");
  EXPECT_EQ(loaded->config().delta, GetParam());
  EXPECT_TRUE(at::equal(run(model, loaded, x), before));
  const auto sizes = [&] { return adapted_linears(folder.path() / "adapter"); };
  if (low_rank()) {
    EXPECT_EQ(sizes().at("up").in_features, 6);
    EXPECT_EQ(sizes().at("up").out_features, 10);
  } else {
    EXPECT_TRUE(has(error_text(sizes), "delta \"output-scale\"")) << error_text(sizes);
  }
}

TEST_P(DeltaKindCase, TensorsThatDoNotFitAreNamed) {
  testing::UserModel model;
  Adapter adapter = inject(*model, config(), testing::user_tasks());
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, tensor] : adapter_tensors(*adapter)) {
    tensors.emplace(name, tensor.detach());
  }
  const std::string name = low_rank() ? "linears.up.M" : "linears.up.d";
  tensors[name] = at::zeros({3});
  const std::string text = error_text([&] { fill_adapter(*adapter, tensors, "the test"); });
  EXPECT_TRUE(has(text, name + ": expected Float [" + (low_rank() ? "4, 4]" : "10]") + ", found Float [3]")) << text;
  EXPECT_TRUE(has(error_text([&] { expert_factors(*adapter, 0); }), "expected an adapter with experts"));
}

TEST_P(DeltaKindCase, IsMergedAndExportedExactlyIfItHasALowRank) {
  testing::UserModel model;
  Adapter adapter = inject(*model, config(), testing::user_tasks());
  const at::Tensor weight = model->up->weight.detach().clone();
  testing::TemporaryFolder folder;
  if (!low_rank()) {
    EXPECT_THROW(merge_for_task(adapter, "coding"), NotMergeable);
    EXPECT_THROW(export_peft(*adapter, "coding", folder.path() / "peft"), NotMergeable);
    EXPECT_TRUE(at::equal(model->up->weight, weight));
    return;
  }
  const at::Tensor x = at::randn({2, 3, 6});
  const at::Tensor unmerged = run(model, adapter, x);
  const nn::LowRank update = adapter->linears().front().delta->low_rank({}).update();
  merge_for_task(adapter, "coding");
  EXPECT_TRUE(at::allclose(model->up->weight, update.added_to(weight), 1e-5, 1e-6));
  const nn::RowContext plain = nn::RowContext::plain(nn::Segments::for_batch(2, 3));
  EXPECT_TRUE(at::allclose(model->forward(x, plain), unmerged, 1e-4, 1e-5));
  unmerge(adapter);
  EXPECT_TRUE(at::equal(model->up->weight, weight));
  export_peft(*adapter, "coding", folder.path() / "peft");
  eject(adapter);
  Adapter read = load_foreign_adapter(*model, folder.path() / "peft");
  EXPECT_TRUE(at::allclose(read->linears().front().delta->low_rank({}).update().dense(), update.dense(), 1e-5, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Kinds, DeltaKindCase, ::testing::Values("mixed-rank", "output-scale"));

TEST(DeltaKind, AnUnknownOneIsAnErrorThatNamesThoseThereAre) {
  MoeLoraConfig config = testing::user_config();
  config.delta = "moe-lora";
  EXPECT_TRUE(has(error_text([&] { config.validate(); }), "delta: expected one of moelora"));
  EXPECT_TRUE(has(error_text([] { delta_kind("moe-lora"); }), "moelora"));
  EXPECT_TRUE(has(error_text([] { register_delta_kind(delta_kind("moelora")); }), "is there already"));
  EXPECT_TRUE(has(error_text([] { register_delta_kind({"unmade", {}, {}, {}}); }), "'unmade' without"));
}

TEST(DeltaKind, IsWrittenOnlyIfItIsNotTheUsualOne) {
  register_kinds();
  EXPECT_FALSE(testing::user_config().to_json().contains("delta"));
  MoeLoraConfig config = testing::user_config();
  config.delta = "mixed-rank";
  EXPECT_EQ(config.to_json()["delta"], "mixed-rank");
  EXPECT_EQ(MoeLoraConfig::from_json(config.to_json()).delta, "mixed-rank");
}

}  // namespace
}  // namespace moelora
