#include "moelora/adapter/fingerprint.h"

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include "adapter/user_model.h"
#include "moelora/adapter/merge.h"
#include "moelora/io/fingerprint.h"

namespace moelora {
namespace {

using testing::fill_updates;
using testing::user_config;
using testing::user_tasks;
using testing::UserModel;

TEST(ModuleFingerprint, IsThatOfTheModulesNamedTensors) {
  UserModel model;
  io::NamedTensors tensors;
  for (const auto& parameter : model->named_parameters()) {
    tensors.emplace_back(parameter.key(), parameter.value());
  }
  EXPECT_EQ(fingerprint(*model), io::fingerprint(tensors));
  const std::string before = fingerprint(*model);
  {
    at::NoGradGuard no_grad;
    model->head->bias[0] += 1.0;
  }
  EXPECT_NE(fingerprint(*model), before);
}

TEST(ModuleFingerprint, IsTheSameInEveryDtypeThatHoldsTheValues) {
  UserModel model;
  model->to(at::kHalf);
  const std::string half = fingerprint(*model);
  model->to(at::kFloat);
  EXPECT_EQ(fingerprint(*model), half);
  model->to(at::kDouble);
  EXPECT_EQ(fingerprint(*model), half);
}

TEST(ModuleFingerprint, DoesNotSeeAnAdapter) {
  UserModel model;
  const std::string before = fingerprint(*model);
  Adapter adapter = inject(*model, user_config(), user_tasks());
  fill_updates(adapter);
  EXPECT_EQ(fingerprint(*model), before);
  model->register_module("adapter", adapter);  // some keep it there, so that to() moves both
  EXPECT_EQ(fingerprint(*model), before);
  merge_for_task(adapter, "triage");
  EXPECT_NE(fingerprint(*model), before);
  unmerge(adapter);
  EXPECT_EQ(fingerprint(*model), before);
}

TEST(ModuleFingerprint, CountsBuffersAndLeavesOutWhatIsNamed) {
  UserModel model;
  model->register_module("norm", torch::nn::BatchNorm1d(3));
  model->register_buffer("turns", at::complex(at::ones({2}), at::zeros({2})));
  const std::string before = fingerprint(*model);
  const std::string without = fingerprint(*model, {"norm"});
  EXPECT_NE(before, without);
  model->named_modules()["norm"]->as<torch::nn::BatchNorm1d>()->running_mean.add_(1.0);
  EXPECT_NE(fingerprint(*model), before);
  EXPECT_EQ(fingerprint(*model, {"norm"}), without);
  EXPECT_THROW(fingerprint(*model, {"nrom"}), Error);
}

}  // namespace
}  // namespace moelora
