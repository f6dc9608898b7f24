// modules_to_save: modules of the base that are trained whole and travel with the adapter.

#include "moelora/adapter/saved_modules.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/optim/adamw.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "adapter/user_model.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/fingerprint.h"
#include "moelora/adapter/foreign.h"
#include "moelora/adapter/merge.h"
#include "moelora/adapter/new_task.h"
#include "support/shared.h"

namespace moelora {
namespace {

using testing::error_text;
using testing::fill_updates;
using testing::has;
using testing::user_config;
using testing::user_tasks;
using testing::UserModel;

const std::vector<std::string> kHead{"head"};

MoeLoraConfig config_with_head() {
  MoeLoraConfig config = user_config();
  config.modules_to_save = kHead;
  return config;
}

class SavedModulesTest : public ::testing::Test {
 protected:
  at::Tensor run(const nn::RowContext& context) { return model_->forward(x_, context); }
  at::Tensor run(Adapter& adapter) { return run(adapter->context(segments_, single_tasks({0, 1}))); }
  void train(Adapter& adapter, int steps = 5) {
    torch::optim::AdamW optimizer(adapter->parameters(), torch::optim::AdamWOptions(1e-1));
    for (int step = 0; step < steps; ++step) {
      optimizer.zero_grad();
      at::cross_entropy_loss(run(adapter), at::tensor({0, 2}, at::kLong)).backward();
      optimizer.step();
    }
  }

  UserModel model_;
  nn::Segments segments_ = nn::Segments::for_batch(2, 4);
  at::Tensor x_ = at::randn({2, 4, 6});
  testing::TemporaryFolder folder_;
};

TEST_F(SavedModulesTest, AreTrainedAfterTheAdaptersOwnParameters) {
  const at::Tensor up = model_->up->weight.detach().clone();
  const at::Tensor classifier = model_->classifier->weight.detach().clone();
  const at::Tensor head = model_->head->weight.detach().clone();
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  const auto keys = adapter->named_parameters().keys();
  ASSERT_GE(keys.size(), 2u);
  EXPECT_EQ(keys[keys.size() - 2], "modules_to_save.head.weight");
  EXPECT_EQ(keys.back(), "modules_to_save.head.bias");
  EXPECT_EQ(keys.front(), "up.A");
  EXPECT_TRUE(model_->head->weight.requires_grad());
  EXPECT_FALSE(model_->up->weight.requires_grad());
  train(adapter);
  EXPECT_FALSE(at::equal(model_->head->weight, head));
  EXPECT_TRUE(at::equal(model_->up->weight, up));
  EXPECT_TRUE(at::equal(model_->classifier->weight, classifier));
  std::ostringstream text;
  text << *adapter;
  EXPECT_TRUE(has(text.str(), "modules to save=1")) << text.str();
}

TEST_F(SavedModulesTest, TravelInTheFileToABaseWithAnotherHead) {
  const std::string print = fingerprint(*model_, kHead);
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  train(adapter);
  EXPECT_EQ(fingerprint(*model_, kHead), print);
  EXPECT_NE(fingerprint(*model_), print);
  save_adapter(*adapter, folder_.path() / "adapter", print);
  const at::Tensor expected = run(adapter);

  UserModel again;
  {
    at::NoGradGuard no_grad;
    for (const auto& parameter : again->named_parameters()) {
      if (!parameter.key().starts_with("head.")) {
        parameter.value().copy_(model_->named_parameters()[parameter.key()]);
      }
    }
  }
  const auto saved = read_adapter_info(folder_.path() / "adapter").config.modules_to_save;
  EXPECT_EQ(saved, kHead);
  const std::string refused =
      error_text([&] { load_adapter(*again, folder_.path() / "adapter", fingerprint(*again)); });
  EXPECT_TRUE(has(refused, "another base") && has(refused, "config.modules_to_save")) << refused;
  Adapter loaded = load_adapter(*again, folder_.path() / "adapter", fingerprint(*again, saved));
  EXPECT_TRUE(at::equal(again->forward(x_, loaded->context(segments_, single_tasks({0, 1}))), expected));
  EXPECT_TRUE(again->head->weight.requires_grad());
}

TEST_F(SavedModulesTest, LeaveTheBaseAsItWasWhereTheAdapterIsOff) {
  const at::Tensor head = model_->head->weight.detach().clone();
  const std::string print = fingerprint(*model_);
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  fill_updates(adapter);
  train(adapter);
  const at::Tensor trained = run(adapter);
  adapter->disable();
  EXPECT_EQ(fingerprint(*model_), print);
  EXPECT_FALSE(model_->head->weight.requires_grad());
  save_adapter(*adapter, folder_.path() / "off", print);  // what was trained, though the base has its own
  adapter->enable();
  EXPECT_TRUE(model_->head->weight.requires_grad());
  EXPECT_TRUE(at::equal(run(adapter), trained));

  eject(adapter);
  EXPECT_EQ(fingerprint(*model_), print);
  EXPECT_TRUE(at::equal(model_->head->weight, head));
  Adapter loaded = load_adapter(*model_, folder_.path() / "off", print);
  EXPECT_TRUE(at::equal(run(loaded), trained));
}

TEST_F(SavedModulesTest, ArePartOfTheMergedModelAndNotTouchedByUnmerging) {
  const std::string print = fingerprint(*model_);
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  fill_updates(adapter);
  train(adapter);
  at::NoGradGuard no_grad;
  const auto one_task = [&] { return run(adapter->context(segments_, single_tasks({1, 1}))); };
  const at::Tensor unmerged = one_task();
  MergeOptions options;
  options.probe = [&] { return is_merged(adapter) ? run(nn::RowContext::plain(segments_)) : one_task(); };
  EXPECT_LT(merge_for_task(adapter, "coding", options).largest_logit_difference, 1e-4);
  EXPECT_TRUE(at::allclose(run(nn::RowContext::plain(segments_)), unmerged, 1e-4, 1e-4));
  merge_for_task(adapter, "triage");
  unmerge(adapter);
  EXPECT_TRUE(at::equal(one_task(), unmerged));
  adapter->disable();
  EXPECT_EQ(fingerprint(*model_), print);
}

TEST_F(SavedModulesTest, BuffersTravelToo) {
  model_->register_module("scores", torch::nn::Sequential(torch::nn::BatchNorm1d(6)));
  MoeLoraConfig config = user_config();
  config.modules_to_save = {"scores"};
  Adapter adapter = inject(*model_, config, user_tasks());
  const auto norm = [&] { return model_->named_modules()["scores.0"]->as<torch::nn::BatchNorm1d>(); };
  norm()->forward(at::randn({16, 6}) + 3.0);
  const at::Tensor mean = norm()->running_mean.clone();
  save_adapter(*adapter, folder_.path() / "adapter", "");
  adapter->disable();
  EXPECT_EQ(norm()->running_mean.abs().max().item<float>(), 0.0f);
  EXPECT_EQ(norm()->num_batches_tracked.item<std::int64_t>(), 0);
  eject(adapter);
  Adapter loaded = load_adapter(*model_, folder_.path() / "adapter", "");
  EXPECT_TRUE(at::equal(norm()->running_mean, mean));
  EXPECT_EQ(norm()->num_batches_tracked.item<std::int64_t>(), 1);
}

TEST_F(SavedModulesTest, ThatCanNotBeHadAreErrorsThatLeaveTheBaseAlone) {
  const auto refused = [&](std::vector<std::string> names, std::vector<std::string> targets = {"up", "down"}) {
    MoeLoraConfig config = user_config(std::move(targets));
    config.modules_to_save = std::move(names);
    return error_text([&] { inject(*model_, config, user_tasks()); });
  };
  EXPECT_TRUE(has(refused({"haed"}), "'haed' stands for no module") && has(refused({"haed"}), "head"))
      << refused({"haed"});
  EXPECT_TRUE(has(refused({"ead"}), "stands for no module"));
  EXPECT_TRUE(has(refused({"classifier"}, {"up", "classifier"}), "adapted too"));
  EXPECT_TRUE(has(refused({"head", "head"}), "listed twice"));
  EXPECT_TRUE(has(refused({""}), "empty name"));
  model_->head->weight.set_data(model_->classifier->weight.detach());
  EXPECT_TRUE(has(refused({"head"}), "are one tensor")) << refused({"head"});
  model_->head->weight.set_data(model_->classifier->weight.detach().clone());
  model_->head->to(at::kHalf);
  EXPECT_TRUE(has(refused({"head"}), "expected in float32")) << refused({"head"});
  model_->head->to(at::kFloat);
  EXPECT_EQ(model_->up->delta("default"), nullptr);
  EXPECT_TRUE(model_->up->weight.requires_grad());
  EXPECT_EQ(refused({"head"}), "no error");
}

TEST_F(SavedModulesTest, BelongToOneAdapterAtATime) {
  Adapter first = inject(*model_, config_with_head(), user_tasks(), "first");
  const std::string enabled = error_text([&] { inject(*model_, user_config(), user_tasks(), "second"); });
  EXPECT_TRUE(has(enabled, "'first'") && has(enabled, "disable()")) << enabled;
  first->disable();
  const std::string taken = error_text([&] { inject(*model_, config_with_head(), user_tasks(), "second"); });
  EXPECT_TRUE(has(taken, "head.weight travels with adapter 'first'")) << taken;
  Adapter second = inject(*model_, user_config(), user_tasks(), "second");
  first->enable();
  EXPECT_TRUE(model_->head->weight.requires_grad());
  const std::string active = error_text([&] { second->enable(); });
  EXPECT_TRUE(has(active, "'first'") && has(active, "disable()")) << active;
  first->disable();
  EXPECT_EQ(error_text([&] { second->enable(); }), "no error");
  eject(first);
  eject(second);
  EXPECT_EQ(error_text([&] { inject(*model_, config_with_head(), user_tasks(), "second"); }), "no error");
}

TEST_F(SavedModulesTest, AreTakenOverByAnAdapterWithOneTaskMore) {
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  fill_updates(adapter);
  train(adapter);
  const at::Tensor before = run(adapter);
  eject(adapter);
  Adapter more = with_new_task(*model_, *adapter, "fourth");
  EXPECT_TRUE(at::equal(run(more), before));
}

TEST_F(SavedModulesTest, AreNotLostInAnExport) {
  Adapter adapter = inject(*model_, config_with_head(), user_tasks());
  for (const auto& refused : {error_text([&] { export_peft(*adapter, "triage", folder_.path() / "peft"); }),
                              error_text([&] { export_moelora_peft(*adapter, folder_.path() / "moelora-peft"); })}) {
    EXPECT_TRUE(has(refused, "modules_to_save: head")) << refused;
  }
}

TEST_F(SavedModulesTest, WithoutThemTheConfigurationIsWrittenAsBefore) {
  EXPECT_FALSE(user_config().to_json().contains("modules_to_save"));
  const auto json = config_with_head().to_json();
  EXPECT_EQ(json["modules_to_save"], nlohmann::ordered_json({"head"}));
  EXPECT_EQ(MoeLoraConfig::from_json(json).modules_to_save, kHead);
}

TEST_F(SavedModulesTest, NamesAreSuffixesAtComponentBoundaries) {
  EXPECT_TRUE(names_module("head", "head"));
  EXPECT_TRUE(names_module("head", "model.head"));
  EXPECT_TRUE(names_module("model.head", "a.model.head"));
  EXPECT_FALSE(names_module("head", "model.forehead"));
  EXPECT_FALSE(names_module("head", "head.inner"));
  EXPECT_FALSE(names_module("", "head"));
}

}  // namespace
}  // namespace moelora
