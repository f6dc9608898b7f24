#include "moelora/adapter/merge.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "adapter/merge/merge_fixture.h"
#include "adapter/tiny_base.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/moe_lora_linear.h"
#include "moelora/io/finite.h"
#include "moelora/nn/row_context.h"

namespace moelora {
namespace {

using KeepBase = MergeOptions::KeepBase;
using Fixture = testing::MergeFixture;
using testing::error_of;
using testing::merge_config;

class MergeInDtype : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(MergeInDtype, AThousandRandomMergesSwitchesMixturesAndUnmergesLeaveTheBaseAsItWas) {
  Fixture fixture(GetParam());
  std::mt19937 random(11);
  const std::vector<std::string> tasks{"a", "b", "c"};
  for (int step = 0; step < 1000; ++step) {
    MergeOptions options;
    options.keep_base = static_cast<KeepBase>(random() % 3);
    options.reread = fixture.reread();
    options.measure = random() % 2 == 0;
    switch (random() % 4) {
      case 0:
      case 1:
        merge_for_task(fixture.adapter, tasks[random() % 3], options);
        break;
      case 2:
        merge_mixture(fixture.adapter, {{"a", 0.1 * (random() % 10)}, {"c", -0.5 + 0.1 * (random() % 10)}}, options);
        break;
      default:
        if (is_merged(fixture.adapter)) {
          unmerge(fixture.adapter);
          ASSERT_TRUE(fixture.base_is_original()) << "after step " << step;
        }
    }
  }
  if (is_merged(fixture.adapter)) {
    unmerge(fixture.adapter);
  }
  EXPECT_TRUE(fixture.base_is_original());
}

TEST_P(MergeInDtype, TheMergedWeightIsTheSumRoundedOnce) {
  Fixture fixture(GetParam());
  merge_mixture(fixture.adapter, {{"a", 0.25}, {"b", 0.75}});
  for (std::size_t i = 0; i < fixture.adapter->linears().size(); ++i) {
    const auto exact = fixture.exact(i, {{0, 0.25}, {1, 0.75}});
    const auto merged = fixture.adapter->linears()[i].base->weight.to(at::kDouble);
    // Half a unit in the last place of the type, and a little for the fp32 sum before it.
    const double unit = GetParam() == at::kHalf ? 0x1p-11 : GetParam() == at::kBFloat16 ? 0x1p-8 : 0x1p-23;
    EXPECT_TRUE(((merged - exact).abs() <= exact.abs() * unit + 1e-6).all().item<bool>());
  }
}

TEST_P(MergeInDtype, TheCertificateHasTheLargestRoundingAndUpdate) {
  Fixture fixture(GetParam());
  const Certificate certificate = merge_for_task(fixture.adapter, "b");
  double rounding = 0.0;
  double update = 0.0;
  for (std::size_t i = 0; i < fixture.adapter->linears().size(); ++i) {
    const auto& linear = fixture.adapter->linears()[i];
    const auto exact = fixture.exact(i, {{1, 1.0}});
    const auto before = fixture.original.at(linear.name + ".weight").to(at::kDouble);
    rounding = std::max(rounding, (linear.base->weight.to(at::kDouble) - exact).abs().max().item<double>());
    update = std::max(update, (exact - before).abs().max().item<double>());
  }
  EXPECT_NEAR(certificate.largest_update, update, 1e-6);
  EXPECT_NEAR(certificate.largest_rounding, rounding, GetParam() == at::kFloat ? 1e-12 : 1e-6);
  EXPECT_GT(certificate.largest_rounding, 0.0);
  EXPECT_FALSE(certificate.largest_rounding_at.empty());
  EXPECT_EQ(certificate.linears, 4);
  EXPECT_EQ(certificate.what, "task b");
}

INSTANTIATE_TEST_SUITE_P(Dtypes, MergeInDtype, ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(Merge, GivesTheReferencesWeights) {
  auto base = testing::tiny_chatglm_base();
  Adapter adapter = load_foreign_adapter(*base, testing::fixtures() / "moelora-tiny");
  const auto golden = io::load_safetensors(testing::fixtures() / "moelora-tiny" / "merged_layer0.safetensors");
  for (const auto* task : {"task1", "task8"}) {
    merge_for_task(adapter, task);
    std::size_t compared = 0;
    for (const auto& linear : adapter->linears()) {
      const auto found =
          golden.find(std::string(task) + linear.name.substr(std::string("transformer").size()) + ".weight");
      if (found != golden.end()) {
        EXPECT_LE((linear.base->weight - found->second).abs().max().item<double>(), 1e-5) << task << " " << linear.name;
        ++compared;
      }
    }
    EXPECT_EQ(compared, 4u);
  }
}

TEST(Merge, ASwitchGivesTheSameBytesAsAFreshMerge) {
  for (const auto keep : {KeepBase::device, KeepBase::host, KeepBase::reread}) {
    Fixture fixture(at::kHalf);
    MergeOptions options;
    options.keep_base = keep;
    options.reread = fixture.reread();
    merge_for_task(fixture.adapter, "b", options);
    const auto fresh = testing::copy_parameters(*fixture.base);
    merge_for_task(fixture.adapter, "a", options);
    merge_for_task(fixture.adapter, "b", options);
    for (const auto& [name, tensor] : testing::copy_parameters(*fixture.base)) {
      EXPECT_TRUE(at::equal(tensor, fresh.at(name))) << name;
    }
    unmerge(fixture.adapter);
    EXPECT_TRUE(fixture.base_is_original());
  }
}

TEST(Merge, BlocksOfRowsMakeNoDifference) {
  Fixture fixture(at::kFloat, 1, 160);  // dense_4h_to_h has 640 columns: more than one block of 2^17 elements
  auto& linear = fixture.adapter->linears()[2];
  ASSERT_GT(linear.base->weight.numel() * 2, 1 << 17);
  merge_for_task(fixture.adapter, "a");
  EXPECT_LE((linear.base->weight.to(at::kDouble) - fixture.exact(2, {{0, 1.0}})).abs().max().item<double>(), 1e-6);
}

TEST(Merge, TheAdapterIsInactiveWhileMergedAndActiveAfterwards) {
  Fixture fixture;
  merge_for_task(fixture.adapter, "a");
  EXPECT_TRUE(is_merged(fixture.adapter));
  EXPECT_FALSE(fixture.adapter->enabled());
  EXPECT_THROW(fixture.adapter->enable(), Error);
  EXPECT_EQ(fixture.adapter->linears()[0].base->merged_adapter, "default");
  unmerge(fixture.adapter);
  EXPECT_TRUE(fixture.adapter->enabled());
  EXPECT_EQ(fixture.adapter->linears()[0].base->merged_adapter, "");
  EXPECT_NE(error_of([&] { unmerge(fixture.adapter); }).find("not merged"), std::string::npos);
}

TEST(Merge, TheProbeRunsUnmergedAndMerged) {
  Fixture fixture;
  at::NoGradGuard no_grad;
  const auto x = at::randn({6, 16});
  const auto segments = nn::Segments::for_batch(2, 3);
  const auto context = fixture.adapter->context(segments, single_tasks({1, 1}));
  auto& linear = *fixture.adapter->linears()[0].base;
  std::vector<bool> merged;
  MergeOptions options;
  options.probe = [&] {
    merged.push_back(is_merged(fixture.adapter));
    // Merged as it is, without the adapter's context, which would be refused for another task.
    return linear.forward(x, merged.back() ? nn::RowContext::plain(segments) : context);
  };
  const auto certificate = merge_for_task(fixture.adapter, "b", options);
  EXPECT_EQ(merged, (std::vector<bool>{false, true}));
  EXPECT_GE(certificate.largest_logit_difference, 0.0);
  EXPECT_LE(certificate.largest_logit_difference, 1e-5);
  // The probe belongs to task b: another task's merge must be seen to differ, also on a switch.
  EXPECT_GT(merge_for_task(fixture.adapter, "a", options).largest_logit_difference, 1e-3);
  EXPECT_EQ(merged, (std::vector<bool>{false, true, false, true}));
  unmerge(fixture.adapter);
  EXPECT_TRUE(fixture.base_is_original());
}

TEST(Merge, AnErrorOfTheProbeLeavesTheBaseUnmerged) {
  Fixture fixture;
  int calls = 0;
  MergeOptions options;
  options.probe = [&] {
    if (++calls == 2) {
      throw Error("the probe fails");
    }
    return at::ones({1});
  };
  EXPECT_THROW(merge_for_task(fixture.adapter, "a", options), Error);
  EXPECT_FALSE(is_merged(fixture.adapter));
  EXPECT_TRUE(fixture.adapter->enabled());
  EXPECT_TRUE(fixture.base_is_original());
}

TEST(Merge, AnUpdateThatOverflowsTheDtypeIsAnErrorAndLeavesTheBaseAsItWas) {
  Fixture fixture(at::kHalf);
  merge_for_task(fixture.adapter, "a");
  {
    at::NoGradGuard no_grad;
    fixture.adapter->linears().back().delta->tensor("B").fill_(1e5);
  }
  const auto text = error_of([&] { merge_for_task(fixture.adapter, "b"); });
  EXPECT_NE(text.find("leaves the range of float16"), text.npos) << text;
  EXPECT_NE(text.find("dense_4h_to_h"), text.npos) << text;
  EXPECT_FALSE(is_merged(fixture.adapter));
  EXPECT_TRUE(fixture.base_is_original());
}

TEST(Merge, AnUpdateThatIsNotFiniteIsRefusedBeforeAnythingChanges) {
  Fixture fixture;
  merge_for_task(fixture.adapter, "a");
  const auto merged = testing::copy_parameters(*fixture.base);
  {
    at::NoGradGuard no_grad;
    fixture.adapter->linears()[1].delta->tensor("A").view(-1)[3] = std::numeric_limits<float>::quiet_NaN();
  }
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "b"); }).find("attention.dense"), std::string::npos);
  EXPECT_TRUE(is_merged(fixture.adapter));
  for (const auto& [name, tensor] : testing::copy_parameters(*fixture.base)) {
    EXPECT_TRUE(at::equal(tensor, merged.at(name))) << name;
  }
}

TEST(Merge, ABaseThatIsNotFiniteIsNamedAndNotCalledAnOverflow) {
  for (const auto dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const KeepBase keep : {KeepBase::device, KeepBase::host, KeepBase::reread}) {
        Fixture fixture(dtype);
        auto& weight = fixture.adapter->linears()[1].base->weight;
        {
          at::NoGradGuard no_grad;
          weight.view(-1)[7] = bad;
        }
        fixture.original = testing::copy_parameters(*fixture.base);
        MergeOptions options;
        options.keep_base = keep;
        options.reread = fixture.reread();
        EXPECT_THROW(merge_for_task(fixture.adapter, "a", options), io::NotFinite);
        const auto text = error_of([&] { merge_for_task(fixture.adapter, "a", options); });
        EXPECT_NE(text.find(fixture.adapter->linears()[1].name + ".weight of the base is not finite"), text.npos)
            << text;
        EXPECT_FALSE(is_merged(fixture.adapter));
        EXPECT_TRUE(fixture.base_is_original());
      }
    }
  }
}

TEST(Merge, ProbeLogitsThatAreNotFiniteFailTheCertificate) {
  for (const int when : {1, 2}) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Fixture fixture;
      int calls = 0;
      MergeOptions options;
      options.probe = [&] { return ++calls == when ? at::full({2, 3}, bad) : at::ones({2, 3}); };
      EXPECT_THROW(merge_for_task(fixture.adapter, "a", options), io::NotFinite);
      EXPECT_EQ(calls, when);
      EXPECT_FALSE(is_merged(fixture.adapter));
      EXPECT_TRUE(fixture.base_is_original());
    }
  }
}

TEST(Merge, EveryDamagedTensorOfTheAdapterIsNamed) {
  Fixture fixture;
  {
    at::NoGradGuard no_grad;
    fixture.adapter->linears()[0].delta->tensor("B").view(-1)[0] = std::numeric_limits<float>::infinity();
    fixture.adapter->gates()[0]->task_embedding.view(-1)[1] = std::numeric_limits<float>::quiet_NaN();
  }
  EXPECT_THROW(require_finite(*fixture.adapter), io::NotFinite);
  const auto text = error_of([&] { merge_mixture(fixture.adapter, {{"a", 1.0}}); });
  for (const std::string& part :
       {"linears." + fixture.adapter->linears()[0].name + ".B", std::string("gate.task_embedding")}) {
    EXPECT_NE(text.find(part), text.npos) << text;
  }
  EXPECT_TRUE(fixture.base_is_original());
}

TEST(Merge, AnUnknownTaskIsNamedAndChangesNothing) {
  Fixture fixture;
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "d"); }).find("unknown task 'd'"), std::string::npos);
  EXPECT_NE(error_of([&] { merge_mixture(fixture.adapter, {{"a", 1.0}, {"e", 1.0}}); }).find("'e'"), std::string::npos);
  EXPECT_THROW(merge_mixture(fixture.adapter, {}), Error);
  EXPECT_THROW(merge_mixture(fixture.adapter, {{"a", 1.0}, {"a", 1.0}}), Error);
  EXPECT_FALSE(is_merged(fixture.adapter));
  EXPECT_TRUE(fixture.base_is_original());
}

/// A delta whose update depends on the token.
class TokenDelta : public MoeLoraLinearImpl {
 public:
  using MoeLoraLinearImpl::MoeLoraLinearImpl;
  std::string not_mergeable() const override { return "depends on each token"; }
};

TEST(Merge, AnUpdateThatIsNoMatrixIsRefused) {
  auto linear = std::make_shared<nn::LinearImpl>(16, 16);
  const auto before = linear->weight.clone();
  const std::shared_ptr<MoeLoraLinearImpl> delta = std::make_shared<TokenDelta>(16, 16, merge_config(), 0, 0);
  linear->attach("default", delta);
  Adapter adapter("default", merge_config(), TaskNames({"a"}),
                  std::vector<AdapterImpl::AdaptedLinear>{{"linear", linear, delta}});
  EXPECT_THROW(merge_for_task(adapter, "a"), NotMergeable);
  EXPECT_FALSE(is_merged(adapter));
  EXPECT_TRUE(at::equal(linear->weight, before));
}

TEST(Merge, TwoAdaptersCanNotBeMergedIntoTheSameWeights) {
  Fixture fixture;
  Adapter other = inject(*fixture.base, merge_config(), TaskNames({"x"}), "other");
  EXPECT_NE(error_of([&] { merge_for_task(fixture.adapter, "a"); }).find("adapter 'other' is active"),
            std::string::npos);
  other->disable();
  merge_for_task(fixture.adapter, "a");
  EXPECT_NE(error_of([&] { merge_for_task(other, "x"); }).find("adapter 'default' merged"), std::string::npos);
  EXPECT_THROW(other->enable(), Error);
  unmerge(fixture.adapter);
  fixture.adapter->disable();
  merge_for_task(other, "x");
  unmerge(other);
  EXPECT_TRUE(fixture.base_is_original());
}

TEST(Merge, PlainLoraAndUniformRoutingMergeToo) {
  for (const std::int64_t experts : {1, 4}) {
    auto base = testing::tiny_base(1, 16);
    MoeLoraConfig config = merge_config();
    config.num_experts = experts;
    config.routing = Routing::uniform;
    Adapter adapter = inject(*base, config, TaskNames({"a"}));
    at::NoGradGuard no_grad;
    auto& linear = adapter->linears()[0];
    linear.delta->tensor("B").normal_();
    const auto expected = linear.base->weight +
                          2.0 / static_cast<double>(experts) * linear.delta->tensor("B").mm(linear.delta->tensor("A"));
    merge_for_task(adapter, "a");
    EXPECT_LE((linear.base->weight - expected).abs().max().item<double>(), 1e-6);
  }
}

TEST(Merge, TheCertificateIsWrittenWithNullForWhatWasNotMeasured) {
  Fixture fixture;
  MergeOptions options;
  options.measure = false;
  const auto json = merge_mixture(fixture.adapter, {{"a", 0.5}, {"b", 0.5}}, options).to_json();
  EXPECT_EQ(json["what"], "mix a=0.5,b=0.5");
  EXPECT_EQ(json["dtype"], "float32");
  EXPECT_TRUE(json["largest_rounding"].is_null());
  EXPECT_TRUE(json["largest_logit_difference"].is_null());
}

}  // namespace
}  // namespace moelora
